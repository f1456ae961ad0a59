# SPDX-License-Identifier: Apache-2.0
"""The routes of the live view: a page, the pictures of each camera, and what the nodes say.

Pictures go as MJPEG, a multipart response whose every part takes the place of the one before,
words as server-sent events. Both are made only for who looks at the moment; each viewer is shown
the newest there is and misses what came while it was busy.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field

from segmentation_node.web.live_page import live_page
from segmentation_node.web.problems import ProblemError, described
from segmentation_node.web.security_headers import POLICY_HEADER, page_policy

T = TypeVar('T')
#: Streams at a time; each holds a connection for as long as somebody looks.
MAX_VIEWERS: Final = 32
#: How soon a viewer who has left, or the end of the service, is noticed.
POLL_S: Final = 1.0
BOUNDARY: Final = 'picture'


class Graph(Protocol):
    """The nodes that can be looked at; see ros.live.LiveGraph."""

    def close(self) -> None: ...

    def cameras(self) -> list[str]: ...

    def overlays(
        self, camera: str, take: Callable[[bytes], None]
    ) -> AbstractContextManager[None]: ...

    def statuses(
        self, take: Callable[[list[dict[str, str]]], None]
    ) -> AbstractContextManager[None]: ...


class Cameras(BaseModel):
    """Which cameras can be looked at."""

    cameras: list[str] = Field(examples=[['/segmentation_node']])


class Newest(Generic[T]):
    """Holds the newest value for one viewer; put from any thread, taken on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._there = asyncio.Event()
        self._value: T | None = None

    def put(self, value: T) -> None:
        """Replace what waits."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, value)

    def _set(self, value: T) -> None:
        self._value = value
        self._there.set()

    async def take(self, timeout_s: float) -> T | None:
        """What has come since the last time; None where nothing does."""
        try:
            await asyncio.wait_for(self._there.wait(), timeout_s)
        except asyncio.TimeoutError:
            return None
        self._there.clear()
        return self._value


class Live:
    """The live view of one service; joins the ROS graph when somebody first looks."""

    def __init__(self, join: Callable[[], Graph] | None = None) -> None:
        self._join = join or _join_ros
        self._graph: Graph | None = None
        self._viewers = 0
        self.closing = False

    def graph(self) -> Graph:
        """The ROS graph; raises ProblemError where there is no ROS."""
        if self._graph is None:
            self._graph = self._join()
        return self._graph

    def close(self) -> None:
        """End the streams and leave the graph."""
        self.closing = True
        if self._graph is not None:
            self._graph.close()

    async def watched(
        self,
        request: Request,
        subscribe: Callable[[Callable[[Any], None]], AbstractContextManager[None]],
        part: Callable[[Any], bytes],
        begin: bytes = b'',
    ) -> AsyncIterator[bytes]:
        """Parts of a stream for one viewer, until it leaves or the service ends.

        Args:
            request: of the viewer.
            subscribe: has its argument called with values while its context lasts.
            part: makes bytes of a value, and of None where none has come for POLL_S.
            begin: comes before all parts.
        """
        newest: Newest[Any] = Newest()
        self._viewers += 1
        try:
            with subscribe(newest.put):
                yield begin
                while not self.closing and not await request.is_disconnected():
                    if data := part(await newest.take(POLL_S)):
                        yield data
        finally:
            self._viewers -= 1

    def check_memory(self) -> None:
        """Raise ProblemError where as many look as can."""
        if self._viewers >= MAX_VIEWERS:
            raise ProblemError(
                'busy',
                f'{self._viewers} streams are being watched, the most there can be; try later',
                {'Retry-After': '10'},
            )


def _join_ros() -> Graph:
    if find_spec('rclpy') is None:
        raise ProblemError(
            'no-ros',
            'rclpy, the Python library of ROS 2, is not installed where the service runs; '
            'install the package with its extra "ros", or source a ROS installation',
        )
    graph: Graph = import_module('segmentation_node.web.live_subscriber').LiveGraph()
    return graph


def make_live_router(live: Live, page_url: str = '') -> APIRouter:
    """The routes of the live view; it leads back to the page at `page_url`, where there is one."""
    router = APIRouter(
        prefix='/live', responses=described('unauthorized', 'no-ros', 'invalid-request')
    )

    @router.get('', summary='The live view', response_class=HTMLResponse)
    def page(
        lang: Annotated[str, Query(pattern='^(en|fr)$', description='en or fr')] = 'en',
    ) -> HTMLResponse:
        """A page with the overlays of all cameras and what became of their frames."""
        html = live_page(lang, page_url)
        return HTMLResponse(html, headers={POLICY_HEADER: page_policy(html)})

    @router.get('/cameras', summary='Which cameras can be looked at')
    def cameras() -> Cameras:
        """The cameras of all segmentation nodes in the ROS graph."""
        return Cameras(cameras=live.graph().cameras())

    @router.get(
        '/stream',
        responses={
            200: {'content': {'multipart/x-mixed-replace': {}}, 'description': 'MJPEG'},
            **described('unknown-camera', 'busy', 'no-ros'),
        },
        response_class=StreamingResponse,
        summary='The overlays of a camera',
    )
    async def stream(
        request: Request,
        camera: Annotated[str, Query(max_length=300, description='one of /live/cameras')],
    ) -> StreamingResponse:
        """The overlays of one camera as MJPEG; while nobody looks, nothing is computed."""
        graph = live.graph()
        known = graph.cameras()
        if camera not in known:
            raise ProblemError(
                'unknown-camera',
                f'no camera {camera[:80]!r} publishes overlays; there are '
                f'{", ".join(known) or "none: is the node active?"}',
            )
        live.check_memory()
        parts = live.watched(request, partial(graph.overlays, camera), _picture_part, _NEXT_PART)
        return StreamingResponse(
            parts, media_type=f'multipart/x-mixed-replace; boundary={BOUNDARY}'
        )

    @router.get(
        '/events',
        responses={
            200: {'content': {'text/event-stream': {}}, 'description': 'server-sent events'},
            **described('busy', 'no-ros'),
        },
        response_class=StreamingResponse,
        summary='What the nodes say of themselves',
    )
    async def events(request: Request) -> StreamingResponse:
        """Rates, latencies and accounts of frames, once a second, with the cameras there are."""
        graph = live.graph()
        live.check_memory()

        def event(statuses: list[dict[str, str]] | None) -> bytes:
            content = {'cameras': graph.cameras(), 'nodes': statuses}
            return f'data: {json.dumps(content)}\n\n'.encode()

        parts = live.watched(request, graph.statuses, event)
        return StreamingResponse(
            parts, media_type='text/event-stream', headers={'Cache-Control': 'no-store'}
        )

    return router


#: Sent with the part before it: browsers show a picture once they have read the head of the next.
_NEXT_PART: Final = f'--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n'.encode()


def _picture_part(picture: bytes | None) -> bytes:
    return b'' if picture is None else picture + b'\r\n' + _NEXT_PART
