# SPDX-License-Identifier: Apache-2.0
"""What is turned away before it is read: bodies that are too large, and more than can be held."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmentation_node.web.problems import ProblemError

#: Of a form besides its files: boundaries, headers, text fields.
FORM_BYTES: Final = 2**16
RETRY_AFTER_S: Final = '1'


class Admission:
    """ASGI middleware that bounds the size of a body and how many are received at a time.

    Args:
        app: what is behind it.
        file_bytes: of the files in a body, at most, by the path that takes them. Beyond it a body
            is refused: by its declared length before any of it is read, else as soon as more has
            come.
        max_requests: with a body, at a time.
    """

    def __init__(self, app: ASGIApp, file_bytes: Mapping[str, int], max_requests: int) -> None:
        self._app = app
        self._file_bytes = file_bytes
        self._max_requests = max_requests
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http' or scope['method'] in ('GET', 'HEAD', 'OPTIONS'):
            await self._app(scope, receive, send)
            return
        if self._requests >= self._max_requests:
            problem = ProblemError(
                'busy',
                f'{self._requests} uploads are being received, the most there can be; try again '
                f'in {RETRY_AFTER_S} s',
                {'Retry-After': RETRY_AFTER_S},
            )
            await problem.response()(scope, receive, send)
            return
        self._requests += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._requests -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        max_bytes = self._file_bytes.get(scope['path'], 0) + FORM_BYTES
        received = 0
        started = False

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get('body', b''))
            if received > max_bytes:
                raise _TooManyBytesError
            return message

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if _declared_bytes(scope) > max_bytes:
                raise _TooManyBytesError
            await self._app(scope, count, note)
        except _TooManyBytesError:
            if not started:
                await _refuse(max_bytes, scope, receive, send)


async def _refuse(max_bytes: int, scope: Scope, receive: Receive, send: Send) -> None:
    problem = ProblemError(
        'too-many-bytes',
        f'the request has more than {max_bytes} bytes; send smaller images, or fewer of them',
    )
    # The server throws away what still comes; closing the connection now could cost the client
    # the answer.
    await problem.response()(scope, receive, send)


class _TooManyBytesError(BaseException):
    """Not an Exception, since the framework makes "400 Bad Request" of those."""


def _declared_bytes(scope: Scope) -> int:
    lengths = [value for name, value in scope['headers'] if name == b'content-length']
    # The server has refused what is no number.
    return int(lengths[0]) if lengths else 0
