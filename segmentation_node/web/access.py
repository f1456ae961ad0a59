# SPDX-License-Identifier: Apache-2.0
"""The API key, where one is set."""

import base64
import binascii
import secrets
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from segmentation_node.web import docs
from segmentation_node.web.problems import ProblemError

HEADER: Final = 'X-API-Key'
#: Says nothing about anybody: for whoever watches over the service, and for the documentation.
OPEN_PATHS: Final = frozenset({'/healthz', '/readyz', '/', '/openapi.json', *docs.PATHS})


class ApiKey:
    """ASGI middleware that lets those in who bring the key, before it reads what they send.

    The key comes in the header X-API-Key, or as the password of HTTP's basic authentication,
    which is what browsers ask their users for.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        closed = scope['type'] == 'http' and scope['path'] not in OPEN_PATHS
        if closed and not self._knows(Headers(scope=scope)):
            problem = ProblemError(
                'unauthorized',
                f'the request has no valid key; send it in the header {HEADER}, or as the '
                f'password of a basic authentication',
                {'WWW-Authenticate': 'Basic realm="segmentation", charset="UTF-8"'},
            )
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        given = headers.get(HEADER)
        candidate = _password(headers) if given is None else given.encode('latin-1')
        # Takes as long for a wrong key as for one that is nearly right.
        return secrets.compare_digest(candidate, self._key)


def _password(headers: Headers) -> bytes:
    scheme, _, credentials = headers.get('Authorization', '').partition(' ')
    if scheme.lower() != 'basic':
        return b''
    try:
        decoded = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return b''
    return decoded.partition(b':')[2]
