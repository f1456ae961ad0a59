# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, told in one format: RFC 9457, Problem Details for HTTP APIs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from segmentation_node.errors import SegmentationError
from segmentation_node.web.security_headers import SECURITY_HEADERS

MEDIA_TYPE: Final = 'application/problem+json'
_NAMES: Final = 'tag:segmentation-node.org,2026:'

#: What can go wrong, by the last part of the problem's type: its status and its title.
KINDS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        'unreadable-request': (400, 'The request is no valid HTTP'),
        'unreadable-form': (400, 'The form cannot be read'),
        'unauthorized': (401, 'An API key is needed'),
        'too-slow': (408, 'The request arrives too slowly'),
        'too-many-bytes': (413, 'The upload is too large'),
        'too-many-pixels': (413, 'The image has too many pixels'),
        'unsupported-format': (415, 'The upload is no image of a supported format'),
        'heic-format': (415, 'The upload is a HEIC photograph'),
        'damaged-image': (422, 'The image cannot be read'),
        'invalid-request': (422, 'The request is not as described'),
        'unknown-model': (422, 'There is no such model'),
        'unknown-scheme': (404, 'There is no such label scheme'),
        'unknown-camera': (404, 'There is no such camera'),
        'busy': (503, 'The service has as much work as it takes on'),
        'model-failed': (503, 'The model cannot be loaded'),
        'not-well': (503, 'The service does not work'),
        'not-ready': (503, 'The service is not ready yet'),
        'no-ros': (503, 'ROS 2 is not installed where the service runs'),
        'no-docs': (503, 'Swagger UI is not installed where the service runs'),
        'internal-error': (500, 'The service has failed'),
    }
)


class ProblemDetails(BaseModel):
    """A problem as it goes over the wire."""

    model_config = ConfigDict(extra='allow')

    type: str = Field(description='which problem; stays the same', examples=[f'{_NAMES}busy'])
    title: str = Field(description='the problem in a line')
    status: int = Field(description='the HTTP status once more', ge=400, le=599)
    detail: str = Field(description='this case of it: the value, what was expected, the remedy')


@dataclass
class ProblemError(SegmentationError):
    """Raised anywhere in the service and answered as ProblemDetails.

    Args:
        kind: one of KINDS.
        detail: the value, what was expected, and the remedy.
        headers: of the response.
        members: further members of the body.
    """

    kind: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        """The HTTP response."""
        status, title = KINDS[self.kind]
        return _response(f'{_NAMES}{self.kind}', title, status, self.detail, self)


def _response(
    type_: str, title: str, status: int, detail: str, more: ProblemError | None = None
) -> JSONResponse:
    content = {'type': type_, 'title': title, 'status': status, 'detail': detail}
    # A failure is answered outside of all middleware.
    headers = {**SECURITY_HEADERS, **(more.headers if more else {})}
    members = dict(more.members) if more else {}
    return JSONResponse({**content, **members}, status, headers, MEDIA_TYPE)


def described(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """These problems as the `responses` of a route in its OpenAPI description."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        example = {'type': f'{_NAMES}{kind}', 'title': title, 'status': status, 'detail': title}
        entry = by_status.setdefault(
            status,
            {
                'description': HTTPStatus(status).phrase,
                'content': {
                    MEDIA_TYPE: {
                        'schema': {'$ref': '#/components/schemas/ProblemDetails'},
                        'examples': {},
                    }
                },
            },
        )
        entry['content'][MEDIA_TYPE]['examples'][kind] = {'value': example}
    return by_status


def install(app: FastAPI) -> None:
    """Answer every error of an application as a problem."""

    @app.exception_handler(ProblemError)
    async def on_problem(_request: Request, problem: ProblemError) -> JSONResponse:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def on_refusal(_request: Request, error: HTTPException) -> JSONResponse:
        # Of routing and of the framework.
        if error.status_code == HTTPStatus.BAD_REQUEST:
            return ProblemError('unreadable-form', str(error.detail)).response()
        title = HTTPStatus(error.status_code).phrase
        response = _response('about:blank', title, error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the values: an upload must not come back in its own refusal.
        errors = [
            {'where': '/'.join(map(str, e['loc'])), 'what': str(e['msg'])} for e in error.errors()
        ]
        detail = '; '.join(f'{e["where"]}: {e["what"]}' for e in errors)
        return ProblemError('invalid-request', detail, members={'errors': errors}).response()

    @app.exception_handler(Exception)
    async def on_failure(_request: Request, _error: Exception) -> JSONResponse:
        # The traceback goes to the log, and nothing of it to the client.
        return ProblemError('internal-error', "the service's log tells what happened").response()
