# SPDX-License-Identifier: Apache-2.0
"""Admission control for uploads: limits their size, duration and number."""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmentation_node.web.clients import ClientSlots, scope_client
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.transfer_limits import TransferLimits

#: Allowance for everything in a form except its files: boundaries, headers, text fields.
FORM_BYTES: Final = 2**16
RETRY_AFTER_S: Final = '1'
#: Younger uploads are never evicted: their rate cannot be judged yet.
GRACE_S: Final = 0.25
#: The rest of the body is not read.
_CLOSE: Final = {'Connection': 'close'}


class AdmissionMiddleware:
    """ASGI middleware that limits the size and duration of a body, and concurrent uploads.

    When all slots are taken, a new upload evicts the slowest unfinished upload of the client
    with the most uploads, if there is one.

    Args:
        app: the application.
        file_bytes: maximum size of all files in a body, by path. A larger body is rejected by
            its declared length before it is read, or else as soon as the limit is exceeded.
        max_requests: maximum number of concurrent requests with a body, counted from their
            headers to the end of the response.
        client_share: share of these that one client may use, 0 to 1.
        limits: time limits of a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        file_bytes: Mapping[str, int],
        max_requests: int,
        client_share: float,
        limits: TransferLimits,
    ) -> None:
        self._app = app
        self._file_bytes = file_bytes
        self._slots: ClientSlots[_Upload] = ClientSlots(max_requests, client_share)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http' or scope['method'] in ('GET', 'HEAD', 'OPTIONS'):
            await self._app(scope, receive, send)
            return
        upload = _Upload(self._file_bytes.get(scope['path'], 0) + FORM_BYTES, self._limits)
        client = scope_client(scope)
        taken, evicted = self._slots.take(client, upload, _Upload.slowness)
        if not taken:
            await _busy(
                f'too many uploads are in progress; at most {self._slots.total} are accepted, '
                f'{self._slots.per_client} of them from one address'
            ).response()(scope, receive, send)
            return
        if evicted:
            evicted.evict()
        try:
            await self._serve(upload, scope, receive, send)
        finally:
            self._slots.release(client, upload)

    async def _serve(self, upload: '_Upload', scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = upload.settled = True
            await send(message)

        try:
            upload.check_size(_declared_bytes(scope))
            await self._app(scope, lambda: upload.receive(receive), note)
        except _RejectedError as rejected:
            # The server discards the rest of the body: the client could lose the response if the
            # connection were closed at once.
            if not started:
                await rejected.problem.response()(scope, receive, send)


class _RejectedError(BaseException):
    """Rejected upload; not an Exception, which the framework would turn into status 400."""

    def __init__(self, problem: ProblemError) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _Upload:
    """Request body while it is received."""

    def __init__(self, max_bytes: int, limits: TransferLimits) -> None:
        self._max_bytes = max_bytes
        self._limits = limits
        self._started_s = _now_s()
        #: Time spent waiting for the client, without the time that the service itself takes.
        self._waited_s = 0.0
        self._received = 0
        self._next: asyncio.Future[Message] | None = None
        self._evicted = False
        #: Whether the body is complete or the response has begun.
        self.settled = False

    def slowness(self) -> float | None:
        """Return the seconds per byte so far; None if the upload must not be evicted."""
        age_s = _now_s() - self._started_s
        if self.settled or age_s < GRACE_S:
            return None
        return age_s / (self._received + 1)

    def evict(self) -> None:
        """Reject the upload in favor of another one."""
        self._evicted = True
        if self._next is not None:
            self._next.cancel()

    def check_size(self, total: int) -> None:
        """Raise _RejectedError if `total` bytes are too many."""
        if total > self._max_bytes:
            raise _RejectedError(
                ProblemError(
                    'too-many-bytes',
                    f'the request has more than {self._max_bytes} bytes; send fewer or smaller '
                    f'images',
                )
            )

    async def receive(self, receive: Receive) -> Message:
        """Return the next message; raises _RejectedError if the upload is evicted or too slow."""
        if self.settled:
            return await receive()
        message = await self._next_message(receive)
        self._received += len(message.get('body', b''))
        self.settled = not message.get('more_body', False)
        self.check_size(self._received)
        return message

    async def _next_message(self, receive: Receive) -> Message:
        asked_s = _now_s()
        left_s = self._limits.allowed_s(self._received) - self._waited_s
        self._next = asyncio.ensure_future(receive())
        try:
            if not self._evicted:
                await asyncio.wait([self._next], timeout=min(self._limits.stall_s, left_s))
            if self._evicted:
                problem = _busy('the upload was slow and its slot was needed by another one')
                problem.headers = {**problem.headers, **_CLOSE}
                raise _RejectedError(problem)
            self._waited_s += _now_s() - asked_s
            if not self._next.done():
                raise _RejectedError(self._too_slow())
            return self._next.result()
        finally:
            self._next.cancel()
            self._next = None

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            'too-slow',
            f'{self._received} bytes of the request arrived in {self._waited_s:.1f} s; '
            f'expected {self._limits}: send a smaller image, or use a faster connection',
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
    # The server has already rejected invalid numbers.
    return int(lengths[0]) if lengths else 0
