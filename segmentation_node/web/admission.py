# SPDX-License-Identifier: Apache-2.0
"""Admission of uploads: bodies too large, too slow, or too many at a time are refused."""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmentation_node.web.clients import Places, scope_client
from segmentation_node.web.pace import Pace
from segmentation_node.web.problems import ProblemError

#: Of a form besides its files: boundaries, headers, text fields.
FORM_BYTES: Final = 2**16
RETRY_AFTER_S: Final = '1'
#: An upload that is younger never makes room: it has had no time to show its pace.
GRACE_S: Final = 0.25
#: The rest of the body is not wanted.
_CLOSE: Final = {'Connection': 'close'}


class Admission:
    """ASGI middleware that bounds the size of a body, its time, and the uploads at a time.

    An upload that is still arriving keeps its place only while nobody else needs it: when there
    is none left, the slowest one of the client with the most uploads is refused in favor of the
    new one.

    Args:
        app: what is behind it.
        file_bytes: of the files in a body, at most, by the path that takes them. Beyond it a body
            is refused: by its declared length before any of it is read, else as soon as more has
            come.
        max_requests: with a body, at a time, from their headers to the end of their answer.
        client_share: of these that one client may have.
        pace: that a body must keep.
    """

    def __init__(
        self,
        app: ASGIApp,
        file_bytes: Mapping[str, int],
        max_requests: int,
        client_share: float,
        pace: Pace,
    ) -> None:
        self._app = app
        self._file_bytes = file_bytes
        self._places: Places[_Upload] = Places(max_requests, client_share)
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http' or scope['method'] in ('GET', 'HEAD', 'OPTIONS'):
            await self._app(scope, receive, send)
            return
        upload = _Upload(self._file_bytes.get(scope['path'], 0) + FORM_BYTES, self._pace)
        client = scope_client(scope)
        taken, evicted = self._places.take(client, upload, _Upload.slowness)
        if not taken:
            await _busy(
                f'as many uploads as possible are in progress, {self._places.total} in all or '
                f'{self._places.per_client} of your address'
            ).response()(scope, receive, send)
            return
        if evicted:
            evicted.evict()
        try:
            await self._serve(upload, scope, receive, send)
        finally:
            self._places.release(client, upload)

    async def _serve(self, upload: '_Upload', scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = upload.settled = True
            await send(message)

        try:
            upload.check_size(_declared_bytes(scope))
            await self._app(scope, lambda: upload.receive(receive), note)
        except _RefusedError as refused:
            # The server discards what still comes; closing the connection at once could cost the
            # client the answer.
            if not started:
                await refused.problem.response()(scope, receive, send)


class _RefusedError(BaseException):
    """Not an Exception, since the framework makes "400 Bad Request" of those."""

    def __init__(self, problem: ProblemError) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _Upload:
    """A body that arrives.

    Args:
        max_bytes: of the body.
        pace: that it must keep.
    """

    def __init__(self, max_bytes: int, pace: Pace) -> None:
        self._max_bytes = max_bytes
        self._pace = pace
        self._started_s = _now_s()
        #: For the client alone: the time that the service itself takes is not held against it.
        self._waited_s = 0.0
        self._received = 0
        self._next: asyncio.Future[Message] | None = None
        self._evicted = False
        #: No more of the body is awaited: it has arrived, or the answer has begun.
        self.settled = False

    def slowness(self) -> float | None:
        """Return the seconds per byte so far; None where the upload must keep its place."""
        age_s = _now_s() - self._started_s
        if self.settled or age_s < GRACE_S:
            return None
        return age_s / (self._received + 1)

    def evict(self) -> None:
        """Refuse the upload in favor of another one."""
        self._evicted = True
        if self._next is not None:
            self._next.cancel()

    def check_size(self, total: int) -> None:
        """Raise _RefusedError where a body of so many bytes is too large."""
        if total > self._max_bytes:
            raise _RefusedError(
                ProblemError(
                    'too-many-bytes',
                    f'the request has more than {self._max_bytes} bytes; send smaller images, or '
                    f'fewer of them',
                )
            )

    async def receive(self, receive: Receive) -> Message:
        """Return the next message; raises _RefusedError where the upload cannot go on."""
        if self.settled:
            return await receive()
        message = await self._awaited(receive)
        self._received += len(message.get('body', b''))
        self.settled = not message.get('more_body', False)
        self.check_size(self._received)
        return message

    async def _awaited(self, receive: Receive) -> Message:
        asked_s = _now_s()
        left_s = self._pace.allowed_s(self._received) - self._waited_s
        self._next = asyncio.ensure_future(receive())
        try:
            if not self._evicted:
                await asyncio.wait([self._next], timeout=min(self._pace.stall_s, left_s))
            if self._evicted:
                problem = _busy('the upload was slow and others needed its place')
                problem.headers = {**problem.headers, **_CLOSE}
                raise _RefusedError(problem)
            self._waited_s += _now_s() - asked_s
            if not self._next.done():
                raise _RefusedError(self._too_slow())
            return self._next.result()
        finally:
            self._next.cancel()
            self._next = None

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            'too-slow',
            f'{self._received} bytes of the request came in {self._waited_s:.1f} s; '
            f'expected {self._pace}: send a smaller image, or use a faster connection',
            _CLOSE,
        )


def _busy(reason: str) -> ProblemError:
    return ProblemError(
        'busy', f'{reason}; try again in {RETRY_AFTER_S} s', {'Retry-After': RETRY_AFTER_S}
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _declared_bytes(scope: Scope) -> int:
    lengths = [value for name, value in scope['headers'] if name == b'content-length']
    # The server has refused what is no number.
    return int(lengths[0]) if lengths else 0
