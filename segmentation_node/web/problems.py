# SPDX-License-Identifier: Apache-2.0
"""Errors in one format: Problem Details for HTTP APIs (RFC 9457)."""

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

#: Status and title of each problem, by the last part of its type.
KINDS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        'unreadable-request': (400, 'The request is not valid HTTP'),
        'unreadable-form': (400, 'The form cannot be read'),
        'unauthorized': (401, 'An API key is required'),
        'too-slow': (408, 'The request is too slow'),
        'too-many-bytes': (413, 'The upload is too large'),
        'too-many-pixels': (413, 'The image has too many pixels'),
        'unsupported-format': (415, 'The upload is not an image of a supported format'),
        'heic-format': (415, 'The upload is a HEIC photo'),
        'damaged-image': (422, 'The image cannot be read'),
        'invalid-request': (422, 'The request is invalid'),
        'unknown-model': (422, 'The model is unknown'),
        'no-instances': (409, 'The model has no instances'),
        'unknown-scheme': (404, 'The label scheme is unknown'),
        'unknown-camera': (404, 'The camera is unknown'),
        'busy': (503, 'The service is busy'),
        'model-failed': (503, 'The model cannot be loaded'),
        'not-well': (503, 'The service is not healthy'),
        'not-ready': (503, 'The service is not ready yet'),
        'no-ros': (503, 'ROS 2 is not installed on the machine of the service'),
        'no-docs': (503, 'Swagger UI is not installed on the machine of the service'),
        'internal-error': (500, 'Internal error of the service'),
    }
)


class ProblemDetails(BaseModel):
    """JSON body of a problem."""

    model_config = ConfigDict(extra='allow')

    type: str = Field(description='stable identifier of the problem', examples=[f'{_NAMES}busy'])
    title: str = Field(description='short description of the problem')
    status: int = Field(description='HTTP status code', ge=400, le=599)
    detail: str = Field(description='details: the value, what was expected, and the remedy')


@dataclass
class ProblemError(SegmentationError):
    """Raised anywhere in the service and sent as ProblemDetails.

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
        """Return the HTTP response."""
        status, title = KINDS[self.kind]
        return _response(f'{_NAMES}{self.kind}', title, status, self.detail, self)


def _response(
    type_: str, title: str, status: int, detail: str, more: ProblemError | None = None
) -> JSONResponse:
    content = {'type': type_, 'title': title, 'status': status, 'detail': detail}
    # Responses to unexpected errors bypass all middleware.
    headers = {**SECURITY_HEADERS, **(more.headers if more else {})}
    members = dict(more.members) if more else {}
    return JSONResponse({**content, **members}, status, headers, MEDIA_TYPE)


def described(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route for these problems."""
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


def install_handlers(app: FastAPI) -> None:
    """Send every error of an application as a problem."""

    @app.exception_handler(ProblemError)
    async def on_problem(_request: Request, problem: ProblemError) -> JSONResponse:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def on_refusal(_request: Request, error: HTTPException) -> JSONResponse:
        # Raised by routing and by the framework.
        if error.status_code == HTTPStatus.BAD_REQUEST:
            return ProblemError('unreadable-form', str(error.detail)).response()
        title = HTTPStatus(error.status_code).phrase
        response = _response('about:blank', title, error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the values: the response must not contain the upload.
        errors = [
            {'where': '/'.join(map(str, e['loc'])), 'what': str(e['msg'])} for e in error.errors()
        ]
        detail = '; '.join(f'{e["where"]}: {e["what"]}' for e in errors)
        return ProblemError('invalid-request', detail, members={'errors': errors}).response()

    @app.exception_handler(Exception)
    async def on_failure(_request: Request, _error: Exception) -> JSONResponse:
        # The traceback is logged, but not sent to the client.
        return ProblemError('internal-error', "the reason is in the service's log").response()
