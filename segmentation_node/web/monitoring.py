# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the service."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16)
_METHODS = ('GET', 'POST')


class Metrics:
    """Metrics of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            'segmentation_http_requests', 'Requests answered', ('method', 'route', 'status'),
            registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            'segmentation_http_request_seconds', 'Time from a request to the end of its response',
            ('route',), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.images = Counter(
            'segmentation_images', 'Images segmented', ('model',), registry=registry
        )
        self.batch_images = Histogram(
            'segmentation_batch_images', 'Images per batch', ('model',),
            buckets=_IMAGES, registry=registry,
        )  # fmt: skip
        self.in_work = Gauge(
            'segmentation_images_in_work', 'Images that wait for a model or are being segmented',
            registry=registry,
        )  # fmt: skip
        self.models_ready = Gauge('segmentation_models_ready', 'Loaded models', registry=registry)

    def count_batch(self, model: str, images: int) -> None:
        """Count a batch; thread-safe."""
        self.images.labels(model).inc(images)
        self.batch_images.labels(model).observe(images)

    def watch(self, in_work: Callable[[], int], models_ready: Callable[[], int]) -> None:
        """Set the functions that return the current values of the gauges."""
        self.in_work.set_function(in_work)
        self.models_ready.set_function(models_ready)


class MetricsMiddleware:
    """ASGI middleware that counts and times requests by their route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        status = 500  # applies if no response is started

        async def note(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # Paths are unbounded: only existing routes and known methods get their own series.
            route = getattr(scope.get('route'), 'path', 'none')
            method = scope['method'] if scope['method'] in _METHODS else 'other'
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started_s)
