# SPDX-License-Identifier: Apache-2.0
"""Streams of the live view: each viewer gets the newest value and skips older ones.

Values are produced only while a viewer is connected.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from fastapi import Request

from segmentation_node.web.problems import ProblemError

T = TypeVar('T')
#: Maximum number of streams; each occupies a connection.
MAX_VIEWERS: Final = 32
#: Interval of checks for viewers that have left, and for shutdown.
POLL_S: Final = 1.0


#: Diagnostics of the nodes, and scores by camera.
Update: TypeAlias = tuple[list[dict[str, str]], dict[str, dict[str, Any]]]


class CameraSource(Protocol):
    """Source of overlays, diagnostics and scores; implemented by ros_cameras.RosCameras."""

    def close(self) -> None: ...

    def cameras(self) -> list[str]: ...

    def overlays(
        self, camera: str, take: Callable[[bytes], None]
    ) -> AbstractContextManager[None]: ...

    def statuses(
        self, take: Callable[[list[dict[str, str]]], None]
    ) -> AbstractContextManager[None]: ...

    def scores(
        self, take: Callable[[str, dict[str, Any]], None]
    ) -> AbstractContextManager[None]: ...


@contextmanager
def updates(source: CameraSource, take: Callable[[Update], None]) -> Iterator[None]:
    """Call `take` with diagnostics and the newest scores of each camera, once a second."""
    scores: dict[str, dict[str, Any]] = {}
    with (
        source.scores(scores.__setitem__),
        source.statuses(lambda statuses: take((statuses, scores.copy()))),
    ):
        yield


class LatestValue(Generic[T]):
    """Newest value for one viewer; set from any thread, taken on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._available = asyncio.Event()
        self._value: T | None = None

    def put(self, value: T) -> None:
        """Replace the value that has not been taken yet."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, value)

    def _set(self, value: T) -> None:
        self._value = value
        self._available.set()

    async def take(self, timeout_s: float) -> T | None:
        """Wait for a new value and return it; None after `timeout_s`."""
        try:
            await asyncio.wait_for(self._available.wait(), timeout_s)
        except asyncio.TimeoutError:
            return None
        self._available.clear()
        return self._value


class LiveView:
    """Live view of one service; connects to the ROS graph when it is first used."""

    def __init__(self, connect: Callable[[], CameraSource] | None = None) -> None:
        self._connect = connect or _connect_to_ros
        self._source: CameraSource | None = None
        self._viewers = 0
        self.closing = False

    def source(self) -> CameraSource:
        """Return the source of cameras; raises ProblemError if ROS is not installed."""
        if self._source is None:
            self._source = self._connect()
        return self._source

    def close(self) -> None:
        """End the streams and leave the ROS graph."""
        self.closing = True
        if self._source is not None:
            self._source.close()

    async def stream(
        self,
        request: Request,
        subscribe: Callable[[Callable[[Any], None]], AbstractContextManager[None]],
        encode: Callable[[Any], bytes],
        head: bytes = b'',
    ) -> AsyncIterator[bytes]:
        """Yield the parts of a stream for one viewer, until it leaves or the service ends.

        Args:
            request: request of the viewer.
            subscribe: calls its argument with values while its context lasts.
            encode: encodes a value, or None if there was no value for POLL_S.
            head: sent before the first part.
        """
        latest: LatestValue[Any] = LatestValue()
        self._viewers += 1
        try:
            with subscribe(latest.put):
                yield head
                while not self.closing and not await request.is_disconnected():
                    if data := encode(await latest.take(POLL_S)):
                        yield data
        finally:
            self._viewers -= 1

    def check_limit(self) -> None:
        """Raise ProblemError if the maximum number of viewers is connected."""
        if self._viewers >= MAX_VIEWERS:
            raise ProblemError(
                'busy',
                f'{self._viewers} streams are open, the maximum; try again in 10 s',
                {'Retry-After': '10'},
            )


def _connect_to_ros() -> CameraSource:
    if find_spec('rclpy') is None:
        raise ProblemError(
            'no-ros',
            'rclpy, the Python library of ROS 2, is not installed on the machine of the service; '
            'install the package with its extra "ros", or source a ROS installation',
        )
    module = import_module('segmentation_node.web.live_view.ros_cameras')
    source: CameraSource = module.RosCameras()
    return source
