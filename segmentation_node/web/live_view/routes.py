# SPDX-License-Identifier: Apache-2.0
"""Routes of the live view: a page, an MJPEG stream per camera, and diagnostics as events."""

import json
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field

from segmentation_node.web.live_view.html import live_page
from segmentation_node.web.live_view.streams import LiveView, Update, updates
from segmentation_node.web.problems import ProblemError, described
from segmentation_node.web.security_headers import POLICY_HEADER, page_policy

BOUNDARY: Final = 'picture'
#: Sent right after each picture: browsers show a picture when the head of the next one arrives.
_NEXT_PART: Final = f'--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n'.encode()


class Cameras(BaseModel):
    """Cameras of the live view."""

    cameras: list[str] = Field(examples=[['/segmentation_node']])


def make_live_router(live: LiveView, page_url: str = '') -> APIRouter:
    """Return the routes of the live view; with `page_url`, it links back to the page."""
    router = APIRouter(
        prefix='/live',
        tags=['Live view'],
        responses=described('unauthorized', 'no-ros', 'invalid-request'),
    )

    @router.get('', summary='Show the live view', response_class=HTMLResponse)
    def page(
        lang: Annotated[str, Query(pattern='^(en|fr)$', description='en or fr')] = 'en',
    ) -> HTMLResponse:
        """Return a page with the overlays of all cameras and the counts of their frames."""
        html = live_page(lang, page_url)
        return HTMLResponse(html, headers={POLICY_HEADER: page_policy(html)})

    @router.get('/cameras', summary='List the cameras')
    def cameras() -> Cameras:
        """Return the cameras of all segmentation nodes in the ROS graph."""
        return Cameras(cameras=live.source().cameras())

    @router.get(
        '/stream',
        responses={
            200: {'content': {'multipart/x-mixed-replace': {}}, 'description': 'MJPEG'},
            **described('unknown-camera', 'busy', 'no-ros'),
        },
        response_class=StreamingResponse,
        summary='Stream the overlays of a camera',
    )
    async def stream(
        request: Request,
        camera: Annotated[str, Query(max_length=300, description='one of /live/cameras')],
    ) -> StreamingResponse:
        """Stream the overlays of one camera as MJPEG, computed only while there is a viewer."""
        source = live.source()
        known = source.cameras()
        if camera not in known:
            raise ProblemError(
                'unknown-camera',
                f'no overlay is published for camera {camera[:80]!r}; available: '
                f'{", ".join(known) or "none. Check that the node is active"}',
            )
        live.check_limit()
        parts = live.stream(request, partial(source.overlays, camera), _encode_picture, _NEXT_PART)
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
        summary='Stream the diagnostics and scores of the nodes',
    )
    async def events(request: Request) -> StreamingResponse:
        """Stream rates, latencies, frame counts and scores of all nodes, and the cameras."""
        source = live.source()
        live.check_limit()

        def encode(update: Update | None) -> bytes:
            content: dict[str, Any] = {'cameras': source.cameras(), 'nodes': None}
            if update is not None:
                content['nodes'], content['scores'] = update
            return f'data: {json.dumps(content)}\n\n'.encode()

        parts = live.stream(request, partial(updates, source), encode)
        return StreamingResponse(
            parts, media_type='text/event-stream', headers={'Cache-Control': 'no-store'}
        )

    return router


def _encode_picture(jpeg: bytes | None) -> bytes:
    return b'' if jpeg is None else jpeg + b'\r\n' + _NEXT_PART
