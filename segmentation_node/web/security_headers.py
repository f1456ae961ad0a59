# SPDX-License-Identifier: Apache-2.0
"""Security headers of all responses."""

import base64
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY_HEADER: Final = 'Content-Security-Policy'
#: Policy of responses that are not pages: nothing in them is run, loaded or framed.
_CLOSED_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"

SECURITY_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        POLICY_HEADER: _CLOSED_POLICY,
        'X-Content-Type-Options': 'nosniff',
        'X-Frame-Options': 'DENY',
        'Referrer-Policy': 'no-referrer',
    }
)


def page_policy(html: str, *, own_files: bool = False) -> str:
    """Return the policy of a page that loads images and data only from its own service.

    Inline scripts and styles are allowed by their SHA-256. With `own_files`, the page may also
    load scripts and styles from its service, set inline styles and show generated images.
    """
    scripts, styles, images = _hashes(html, 'script'), _hashes(html, 'style'), "'self' data:"
    if own_files:
        scripts, styles, images = f"'self' {scripts}", "'self' 'unsafe-inline'", f'{images} blob:'
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src {images}; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, tag: str) -> str:
    texts = re.findall(rf'<{tag}>(.*?)</{tag}>', html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
    return ' '.join(f"'sha256-{digest}'" for digest in digests) or "'none'"


class SecurityHeadersMiddleware:
    """ASGI middleware that adds missing security headers to a response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def add(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, add)
