# SPDX-License-Identifier: Apache-2.0
"""The service, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Response, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

import segmentation_node
from segmentation_node.web import access, problems
from segmentation_node.web.admission import Admission
from segmentation_node.web.api import make_router
from segmentation_node.web.docs import make_docs_router
from segmentation_node.web.live import Live, make_live_router
from segmentation_node.web.monitoring import Measured, Metrics
from segmentation_node.web.predictor import Predictor
from segmentation_node.web.query_fields import refuse_unknown
from segmentation_node.web.security_headers import SecurityHeaders
from segmentation_node.web.settings import Settings
from segmentation_node.web.shelf import READY


class Health(BaseModel):
    """What a supervisor wants to know."""

    status: str


def make_application(settings: Settings, live: Live | None = None) -> FastAPI:
    """A service; its threads are started here and given up with its lifespan."""
    live = live or Live()
    metrics = Metrics()
    predictor = Predictor(settings, metrics.ran)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if settings.preload:
            for name in settings.models:
                predictor.batcher.want(name)
        yield
        live.close()
        predictor.close()

    app = FastAPI(
        title='segmentation_node',
        version=segmentation_node.__version__,
        description='Semantic segmentation of images: which pixel is road, which is car.',
        lifespan=lifespan,
        # FastAPI's own page would fetch its programs from other servers; see docs.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems.described('invalid-request'),
        dependencies=[
            Depends(refuse_unknown),
            # For the description only: access.ApiKey asks before anything of a body is read.
            *([Security(APIKeyHeader(name=access.HEADER, auto_error=False))]
              if settings.api_key else []),
        ],
    )  # fmt: skip
    problems.install(app)
    app.include_router(make_router(predictor))
    app.include_router(make_live_router(live, settings.page_url))
    app.include_router(make_docs_router(settings.page_url))
    _watch_over(app, predictor, metrics)
    # The last one added is the first to see a request.
    app.add_middleware(
        Admission,
        file_bytes={
            '/predict': settings.max_upload_bytes,
            '/predict/batch': settings.max_batch_upload_bytes,
        },
        max_requests=settings.max_requests,
        client_share=settings.client_share,
        pace=settings.pace,
    )
    if settings.api_key:
        app.add_middleware(access.ApiKey, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_headers=[access.HEADER]
        )
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    schemas = app.openapi()['components']['schemas']
    for name, schema in schemas.items():
        if name.startswith('Body_'):  # FastAPI's name of a form; other fields are refused
            schema['additionalProperties'] = False
    schemas[problems.ProblemDetails.__name__] = problems.ProblemDetails.model_json_schema()
    return app


def _watch_over(app: FastAPI, predictor: Predictor, metrics: Metrics) -> None:
    """The routes for those who run the service."""
    models = predictor.batcher.shelf.models
    metrics.watch(
        lambda: predictor.capacity.images, lambda: sum(m.state == READY for m in models.values())
    )

    @app.get('/healthz', responses=problems.described('not-well'), summary='Whether it works')
    async def healthz() -> Health:
        """Whether the service can do its work; if not, it is to be started anew."""
        if not predictor.batcher.alive:
            raise problems.ProblemError('not-well', 'the thread that runs the networks has ended')
        return Health(status='ok')

    @app.get('/readyz', responses=problems.described('not-ready'), summary='Whether to ask it')
    async def readyz() -> Health:
        """Whether requests are welcome now: all models that are to be loaded first are there."""
        awaited = [m.name for m in models.values() if settings.preload and m.state != READY]
        if awaited:
            raise problems.ProblemError('not-ready', f'still to be loaded: {", ".join(awaited)}')
        return Health(status='ok')

    @app.get(
        '/metrics', summary='Figures for Prometheus',
        responses={200: {'content': {'text/plain': {'schema': {'type': 'string'}}}},
                   **problems.described('unauthorized')},
        response_class=Response,
    )  # fmt: skip
    def show_metrics() -> Response:
        """Requests, images, batches, queue, memory, in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    settings = predictor.settings
