# SPDX-License-Identifier: Apache-2.0
"""Connections of the service: limits on their number and on the time that a client may take.

Uvicorn limits only the time between two requests. This module extends its HTTP/1.1 protocol: a
connection is closed if the client is slow to send the headers of a request or to read a response,
and a client that is rejected while it is still sending can read the response.
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

from segmentation_node.web.clients import ClientSlots, client_key
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.service_settings import ServiceSettings

#: Younger connections are never evicted: their request may still be on the way.
GRACE_S: Final = 1.0
#: Lingering time of a client that is rejected when it connects, and of all during shutdown.
REJECTION_LINGER_S: Final = 2.0
#: Maximum number of bytes discarded after a rejection; more than most clients send before reading.
MAX_DISCARDED_BYTES: Final = 2**28
#: States in which the whole request has been received.
_RECEIVED: Final = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.SWITCHED_PROTOCOL)


class Phase(Enum):
    """Phase of a connection."""

    IDLE = auto()  # between requests
    HEADERS = auto()  # receiving the headers of a request
    RESPONDING = auto()  # receiving a body and responding
    DRAINING = auto()  # the response is sent; the rest of the request is discarded
    LINGERING = auto()  # as DRAINING, but the connection closes afterwards


class ServerConfig(uvicorn.Config):
    """Configuration of uvicorn with the connection limits of a service.

    Args:
        app: the service.
        settings: limits.
        options: further options of uvicorn.Config.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, **options: Any) -> None:
        super().__init__(
            app, http=Connection, log_config=None, access_log=False, server_header=False,
            ws='none', timeout_keep_alive=math.ceil(settings.keep_alive_s), **options,
        )  # fmt: skip
        self.settings = settings
        self.slots: ClientSlots[Connection] = ClientSlots(
            settings.max_connections, settings.client_share
        )
        #: Connections that did not get a slot and are being closed with a response.
        self.rejected: set[Connection] = set()


class Connection(H11Protocol):
    """HTTP/1.1 connection with time limits for its client."""

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
        self._transfer_limits = settings.transfer_limits
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
        super().connection_made(cast(asyncio.Transport, _LingeringTransport(transport, self)))
        self._client_key = client_key(self.client[0] if self.client else None)
        taken, evicted = self.config.slots.take(self._client_key, self, Connection.slowness)
        if evicted:
            evicted.evict()
        if taken:
            self._enter(Phase.IDLE)
        else:
            self._reject()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self.config.slots.release(self._client_key, self)
        self.config.rejected.discard(self)
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
        self._update_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_phase()

    def send_400_response(self, msg: str) -> None:
        self._send_problem(
            ProblemError('unreadable-request', f'{msg} Expected HTTP/1.1 (RFC 9112).')
        )
        self.transport.close()

    def shutdown(self) -> None:
        for phase in (Phase.DRAINING, Phase.LINGERING):
            self._limits_s[phase] = REJECTION_LINGER_S
        if self._phase is Phase.HEADERS:
            self._socket.close()
            return
        super().shutdown()
        if self.lingers:
            self._enter(Phase.LINGERING)

    def pause_writing(self) -> None:
        super().pause_writing()
        allowed_s = self._transfer_limits.allowed_s(self._socket.get_write_buffer_size())
        self._write_timer = self.loop.call_later(allowed_s, self._reset)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def slowness(self) -> float | None:
        """Return the seconds spent waiting for the client; None if it must not be evicted."""
        waited_s = self.loop.time() - self._since_s
        return None if self._phase is Phase.RESPONDING or waited_s < GRACE_S else waited_s

    def evict(self) -> None:
        """Close the connection in favor of another one."""
        if self._phase in (Phase.IDLE, Phase.HEADERS):
            self._reject()
        else:  # the response has been sent
            self._phase = Phase.LINGERING
            self._socket.close()

    @property
    def lingers(self) -> bool:
        """True once the connection counts as closed and only discards received bytes."""
        return self._phase is Phase.LINGERING

    def linger(self) -> None:
        """Close the connection once the client has stopped sending, or after a time limit.

        A socket that is closed with unread bytes is reset, and the client could lose a response
        that it has not read yet.
        """
        if self.lingers or self._socket.is_closing():
            return
        idle = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if self.conn.their_state in _RECEIVED or (idle and self not in self.config.rejected):
            self._socket.close()
            return
        self._enter(Phase.LINGERING)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if self._socket.can_write_eof():
            self._socket.write_eof()

    def _update_phase(self) -> None:
        """Start the timer of the current phase unless it is running."""
        if self.lingers or self._socket.is_closing():
            return
        if (phase := self._current_phase()) is not self._phase:
            self._enter(phase)

    def _current_phase(self) -> Phase:
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.RESPONDING
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
            self._phase_timer = self.loop.call_later(limit_s, self._on_timeout)

    def _on_timeout(self) -> None:
        match self._phase:
            case Phase.IDLE:
                self.timeout_keep_alive_handler()
            case Phase.HEADERS:
                limit_s = self._limits_s[Phase.HEADERS]
                self._send_problem(
                    ProblemError(
                        'too-slow',
                        f'the headers of the request are incomplete after {limit_s:g} s; '
                        f'send them at once',
                    )
                )
                self.transport.close()
            case _:
                self._reset()

    def _reject(self) -> None:
        """Close a connection that has no slot, with a response if few are being rejected."""
        if len(self.config.rejected) < self.config.slots.total // 4:
            self.config.rejected.add(self)
            self._limits_s[Phase.LINGERING] = REJECTION_LINGER_S
            self._send_problem(_no_slot(self.config.slots))
            self.linger()
        else:
            self._reset()

    def _send_problem(self, problem: ProblemError) -> None:
        """Send a problem as the last response of the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # during or after another response
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
        """Close the connection at once and drop unread response bytes."""
        # Without SO_LINGER, the kernel would keep them until the client reads.
        self._socket.get_extra_info('socket').setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
        self._socket.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._phase_timer, self._write_timer):
            if timer is not None:
                timer.cancel()


class _LingeringTransport:
    """Transport whose close() is handled by the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def is_closing(self) -> bool:
        return self._connection.lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _no_slot(slots: ClientSlots[Connection]) -> ProblemError:
    return ProblemError(
        'busy',
        f'too many connections are open; at most {slots.total} are accepted, '
        f'{slots.per_client} of them from one address; try again in 1 s',
        {'Retry-After': '1'},
    )
