# SPDX-License-Identifier: Apache-2.0
"""Authentication by an optional API key."""

import base64
import binascii
import secrets
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from segmentation_node.web.problems import ProblemError
from segmentation_node.web.swagger_ui import PATHS

API_KEY_HEADER: Final = 'X-API-Key'
#: Paths that need no key: health checks and documentation, neither with private data.
OPEN_PATHS: Final = frozenset({'/healthz', '/readyz', '/', '/openapi.json', *PATHS})


class ApiKeyMiddleware:
    """ASGI middleware that rejects requests without the API key before their body is read.

    The key is sent in the header X-API-Key or as the password of HTTP basic authentication,
    which browsers ask their users for.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        protected = scope['type'] == 'http' and scope['path'] not in OPEN_PATHS
        if protected and not self._is_authorized(Headers(scope=scope)):
            problem = ProblemError(
                'unauthorized',
                f'the request has no valid API key; send it in the header {API_KEY_HEADER}, or as '
                f'the password of basic authentication',
                {'WWW-Authenticate': 'Basic realm="segmentation", charset="UTF-8"'},
            )
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, headers: Headers) -> bool:
        given = headers.get(API_KEY_HEADER)
        candidate = _password(headers) if given is None else given.encode('latin-1')
        # Constant time: does not reveal how much of a wrong key is correct.
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
