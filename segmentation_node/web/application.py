# SPDX-License-Identifier: Apache-2.0
"""Assembly of the service: routes, middleware and lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Response, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

import segmentation_node
from segmentation_node.web.admission import AdmissionMiddleware
from segmentation_node.web.api import make_router
from segmentation_node.web.api_key import API_KEY_HEADER, ApiKeyMiddleware
from segmentation_node.web.live_view.routes import make_live_router
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.model_cache import READY
from segmentation_node.web.monitoring import Metrics, MetricsMiddleware
from segmentation_node.web.predictor import Predictor
from segmentation_node.web.problems import (
    ProblemDetails,
    ProblemError,
    described,
    install_handlers,
)
from segmentation_node.web.security_headers import SecurityHeadersMiddleware
from segmentation_node.web.service_settings import ServiceSettings
from segmentation_node.web.swagger_ui import make_docs_router
from segmentation_node.web.unknown_fields import reject_unknown_fields


class Health(BaseModel):
    """Response of the health endpoints."""

    status: str


def make_application(settings: ServiceSettings, live: LiveView | None = None) -> FastAPI:
    """Return the service; its threads start here and end with its lifespan."""
    live = live or LiveView()
    metrics = Metrics()
    predictor = Predictor(settings, metrics.count_batch)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if settings.preload:
            for name in settings.models:
                predictor.batcher.start_loading(name)
        yield
        live.close()
        predictor.close()

    app = FastAPI(
        title='segmentation_node',
        version=segmentation_node.__version__,
        description='Semantic segmentation of images: assigns a class to every pixel.',
        lifespan=lifespan,
        # FastAPI's own page would load scripts from other servers; see swagger_ui.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=described('invalid-request'),
        dependencies=[
            Depends(reject_unknown_fields),
            # Only for the OpenAPI schema: ApiKeyMiddleware checks the key before reading the body.
            *([Security(APIKeyHeader(name=API_KEY_HEADER, auto_error=False))]
              if settings.api_key else []),
        ],
    )  # fmt: skip
    install_handlers(app)
    app.include_router(make_router(predictor))
    app.include_router(make_live_router(live, settings.page_url))
    app.include_router(make_docs_router(settings.page_url))
    app.include_router(_make_monitoring_router(predictor, metrics))
    # The middleware added last handles a request first.
    app.add_middleware(
        AdmissionMiddleware,
        file_bytes={
            '/predict': settings.max_upload_bytes,
            '/predict/batch': settings.max_batch_upload_bytes,
        },
        max_requests=settings.max_requests,
        client_share=settings.client_share,
        limits=settings.transfer_limits,
    )
    if settings.api_key:
        app.add_middleware(ApiKeyMiddleware, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_headers=[API_KEY_HEADER]
        )
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(SecurityHeadersMiddleware)
    schemas = app.openapi()['components']['schemas']
    for name, schema in schemas.items():
        if name.startswith('Body_'):  # FastAPI's name for a form; unknown fields are rejected
            schema['additionalProperties'] = False
    schemas[ProblemDetails.__name__] = ProblemDetails.model_json_schema()
    return app


def _make_monitoring_router(predictor: Predictor, metrics: Metrics) -> APIRouter:
    """Return the health endpoints and metrics."""
    settings, models = predictor.settings, predictor.batcher.cache.models
    router = APIRouter(tags=['Monitoring'])
    metrics.watch(
        lambda: predictor.capacity.images, lambda: sum(m.state == READY for m in models.values())
    )

    @router.get('/healthz', responses=described('not-well'), summary='Liveness probe')
    async def healthz() -> Health:
        """Return whether the service is healthy; restart it if it is not."""
        if not predictor.batcher.alive:
            raise ProblemError(
                'not-well', 'the thread that runs the networks has ended; restart the service'
            )
        return Health(status='ok')

    @router.get('/readyz', responses=described('not-ready'), summary='Readiness probe')
    async def readyz() -> Health:
        """Return whether all models that are preloaded are ready."""
        missing = [m.name for m in models.values() if settings.preload and m.state != READY]
        if missing:
            raise ProblemError(
                'not-ready', f'models still loading: {", ".join(missing)}; try again later'
            )
        return Health(status='ok')

    @router.get(
        '/metrics', summary='Prometheus metrics',
        responses={200: {'content': {'text/plain': {'schema': {'type': 'string'}}}},
                   **described('unauthorized')},
        response_class=Response,
    )  # fmt: skip
    def show_metrics() -> Response:
        """Return counts of requests, images and batches, queue length and memory use."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
