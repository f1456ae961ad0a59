# SPDX-License-Identifier: Apache-2.0
"""Connections of the service: bounded in number, and in the time that a client may take.

Uvicorn limits only the time between two requests. What is missing is added to its HTTP/1.1
protocol here: a client that is slow to send the headers of a request or to read a response loses
its connection, and one that is refused while it still sends can read the refusal.
"""

import asyncio
import math
import socket
import struct
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from segmentation_node.web.clients import Places, client_key
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.settings import Settings

#: A connection that has waited for less never makes room: its request may be on the way.
GRACE_S: Final = 1.0
#: Of a client that is refused as soon as it connects, and of all while the service ends.
REFUSAL_LINGER_S: Final = 2.0
#: What a client may send beyond a refusal; more than most send before they read.
MAX_DISCARDED_BYTES: Final = 2**28
#: Nothing more of the request will be read.
_ARRIVED: Final = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.SWITCHED_PROTOCOL)


class Phase(Enum):
    """What a connection is busy with."""

    IDLE = auto()  # between requests
    HEADERS = auto()  # a part of a request's headers has come
    ANSWERING = auto()  # a request is received and answered
    DRAINING = auto()  # the answer is sent, and the rest of the request is discarded
    LINGERING = auto()  # the same, and the connection is closed after it


class ServerConfig(uvicorn.Config):
    """Configuration of uvicorn with the limits of a service.

    Args:
        app: the service.
        settings: its limits.
        options: further ones of uvicorn.
    """

    def __init__(self, app: ASGIApp, settings: Settings, **options: Any) -> None:
        super().__init__(
            app, http=Connection, log_config=None, access_log=False, server_header=False,
            ws='none', timeout_keep_alive=math.ceil(settings.keep_alive_s), **options,
        )  # fmt: skip
        self.settings = settings
        self.places: Places[Connection] = Places(settings.max_connections, settings.client_share)
        #: Connections that were refused a place and are told so.
        self.refused: set[Connection] = set()


class Connection(H11Protocol):
    """An HTTP/1.1 connection that does not wait for its client without limit."""

    config: ServerConfig

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        settings = config.settings
        self._pace = settings.pace
        self._limits_s = {
            Phase.IDLE: settings.keep_alive_s,
            Phase.HEADERS: settings.header_timeout_s,
            Phase.DRAINING: settings.linger_s,
            Phase.LINGERING: settings.linger_s,
        }
        self._phase = Phase.IDLE
        self._since_s = self.loop.time()
        self._discarded = 0
        self._phase_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        super().connection_made(cast(asyncio.Transport, _Closing(transport, self)))
        self._client_key = client_key(self.client[0] if self.client else None)
        taken, evicted = self.config.places.take(self._client_key, self, Connection.slowness)
        if evicted:
            evicted.evict()
        if taken:
            self._enter(Phase.IDLE)
        else:
            self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self.config.places.release(self._client_key, self)
        self.config.refused.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase in (Phase.DRAINING, Phase.LINGERING):
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                self._reset()
                return
        if self._phase is Phase.LINGERING:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        self._answer(ProblemError('unreadable-request', f'{msg} Send HTTP/1.1 as in RFC 9112.'))
        self.transport.close()

    def shutdown(self) -> None:
        for phase in (Phase.DRAINING, Phase.LINGERING):
            self._limits_s[phase] = REFUSAL_LINGER_S
        if self._phase is Phase.HEADERS:
            self._socket.close()
            return
        super().shutdown()
        if self.lingers:
            self._enter(Phase.LINGERING)

    def pause_writing(self) -> None:
        super().pause_writing()
        allowed_s = self._pace.allowed_s(self._socket.get_write_buffer_size())
        self._write_timer = self.loop.call_later(allowed_s, self._reset)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def slowness(self) -> float | None:
        """Return the seconds that the client has let it wait; None where it must stay open."""
        waited_s = self.loop.time() - self._since_s
        return None if self._phase is Phase.ANSWERING or waited_s < GRACE_S else waited_s

    def evict(self) -> None:
        """Close the connection in favor of another one."""
        if self._phase in (Phase.IDLE, Phase.HEADERS):
            self._refuse()
        else:  # it has been answered
            self._phase = Phase.LINGERING
            self._socket.close()

    @property
    def lingers(self) -> bool:
        """Whether the connection counts as closed and only discards what still comes."""
        return self._phase is Phase.LINGERING

    def linger(self) -> None:
        """Close the connection once the client has stopped sending, or after a while.

        A socket that is closed while something is left to read is reset, and the client would
        lose the answer that it has not read yet.
        """
        if self.lingers or self._socket.is_closing():
            return
        idle = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if self.conn.their_state in _ARRIVED or (idle and self not in self.config.refused):
            self._socket.close()
            return
        self._enter(Phase.LINGERING)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if self._socket.can_write_eof():
            self._socket.write_eof()

    def _watch(self) -> None:
        """Start the clock of the phase that the connection is in, unless it runs."""
        if self.lingers or self._socket.is_closing():
            return
        if (phase := self._present()) is not self._phase:
            self._enter(phase)

    def _present(self) -> Phase:
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.ANSWERING
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.DRAINING
        return Phase.HEADERS if self.conn.trailing_data[0] else Phase.IDLE

    def _enter(self, phase: Phase) -> None:
        if self._phase_timer is not None:
            self._phase_timer.cancel()
        self._phase, self._since_s = phase, self.loop.time()
        if phase is not Phase.LINGERING:
            self._discarded = 0
        if limit_s := self._limits_s.get(phase):
            self._phase_timer = self.loop.call_later(limit_s, self._on_late)

    def _on_late(self) -> None:
        match self._phase:
            case Phase.IDLE:
                self.timeout_keep_alive_handler()
            case Phase.HEADERS:
                limit_s = self._limits_s[Phase.HEADERS]
                self._answer(
                    ProblemError(
                        'too-slow',
                        f'the headers of the request are not complete after {limit_s:g} s; send '
                        f'them at once',
                    )
                )
                self.transport.close()
            case _:
                self._reset()

    def _refuse(self) -> None:
        """End a connection that has no place; a request that is on its way is answered."""
        if len(self.config.refused) < self.config.places.total // 4:
            self.config.refused.add(self)
            self._limits_s[Phase.LINGERING] = REFUSAL_LINGER_S
            self._answer(_no_place(self.config.places))
            self.linger()
        else:
            self._reset()

    def _answer(self, problem: ProblemError) -> None:
        """Send a problem as the last response of the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # in the middle of another response, or after it
        response = problem.response()
        head = h11.Response(
            status_code=response.status_code,
            reason=HTTPStatus(response.status_code).phrase,
            headers=[
                *self.server_state.default_headers,
                *response.raw_headers,
                (b'Connection', b'close'),
            ],
        )
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self._socket.write(self.conn.send(event) or b'')

    def _reset(self) -> None:
        """End the connection, with what the client has not read yet."""
        # Without it, the kernel would keep that for as long as the client does not read.
        self._socket.get_extra_info('socket').setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
        self._socket.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._phase_timer, self._write_timer):
            if timer is not None:
                timer.cancel()


class _Closing:
    """A transport whose closing is left to the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def is_closing(self) -> bool:
        return self._connection.lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _no_place(places: Places[Connection]) -> ProblemError:
    return ProblemError(
        'busy',
        f'as many connections as possible are open, {places.total} in all or '
        f'{places.per_client} of your address; try again in 1 s',
        {'Retry-After': '1'},
    )
