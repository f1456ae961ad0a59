# SPDX-License-Identifier: Apache-2.0
"""HTTP on raw sockets, for clients that no library provides: slow, silent or write-only."""

import socket
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPResponse

import httpx

HOST = '127.0.0.1'


@dataclass(frozen=True)
class Answer:
    """Response of the service."""

    status: int
    headers: Message
    body: bytes


def connect(port: int, timeout_s: float, source: str = HOST) -> socket.socket:
    """Return a connection from a local address, any of 127.0.0.0/8."""
    return socket.create_connection((HOST, port), timeout_s, (source, 0))


def upload(image: bytes, *headers: str, path: str = '/predict') -> tuple[bytes, bytes]:
    """Return head and body of a request with an image file."""
    request = httpx.Request('POST', f'http://service{path}', files={'image': image})
    body = request.read()
    lines = [f'POST {path} HTTP/1.1', 'Host: service', f'Content-Length: {len(body)}',
             f'Content-Type: {request.headers["Content-Type"]}', *headers]  # fmt: skip
    return '\r\n'.join([*lines, '', '']).encode(), body


def read_answer(connection: socket.socket) -> Answer:
    """Return the next response; raises OSError or HTTPException if there is none."""
    response = HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.headers, response.read())
