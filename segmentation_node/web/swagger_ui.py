# SPDX-License-Identifier: Apache-2.0
"""Interactive API documentation: Swagger UI, from local files only."""

from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from segmentation_node.paths import with_extra
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.security_headers import POLICY_HEADER, page_policy

#: Package whose folder "static" contains the files of Swagger UI.
PACKAGE: Final = 'fastapi_offline'
SCRIPT: Final = 'swagger-ui-bundle.js'
STYLE: Final = 'swagger-ui.css'
#: Paths of the page and its files; they contain no private data.
PATHS: Final = ('/docs', f'/docs/{SCRIPT}', f'/docs/{STYLE}')

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>segmentation_node: service API</title>
<link rel="stylesheet" href="docs/$style">
<link rel="icon" href="data:,">
</head>
<body>
<main id="swagger-ui"></main>
<script src="docs/$script"></script>
<script>SwaggerUIBundle({url: 'openapi.json', dom_id: '#swagger-ui', deepLinking: true})</script>
</body>
</html>
""")


def make_docs_router(page_url: str) -> APIRouter:
    """Return the routes of Swagger UI, and `/`, which redirects to the page or to Swagger UI."""
    router = APIRouter(include_in_schema=False)

    @router.get('/')
    def root() -> RedirectResponse:
        return RedirectResponse(page_url or 'docs')

    @router.get('/docs')
    def docs() -> HTMLResponse:
        _static()
        html = _PAGE.substitute(script=SCRIPT, style=STYLE)
        return HTMLResponse(html, headers={POLICY_HEADER: page_policy(html, own_files=True)})

    @router.get(f'/docs/{SCRIPT}')
    def script() -> FileResponse:
        return FileResponse(_static() / SCRIPT, media_type='text/javascript')

    @router.get(f'/docs/{STYLE}')
    def style() -> FileResponse:
        return FileResponse(_static() / STYLE, media_type='text/css')

    return router


def _static() -> Path:
    """Return the folder of Swagger UI's files; raises ProblemError if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ProblemError(
            'no-docs',
            f'Swagger UI is not installed on the machine of the service; the OpenAPI schema is at '
            f'/openapi.json. To install it: pip install {with_extra("web")}',
        )
    return Path(spec.origin).with_name('static')
