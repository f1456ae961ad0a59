# SPDX-License-Identifier: Apache-2.0
"""HTTP client of the service."""

import base64
import os
from dataclasses import dataclass
from typing import Any, Final

import cv2
import httpx

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.errors import SegmentationError
from segmentation_node.images.files import decode_pixels
from segmentation_node.images.label_files import decode_label_file
from segmentation_node.instances import SEMANTIC
from segmentation_node.web.api_key import API_KEY_HEADER
from segmentation_node.web.service_settings import API_KEY_VARIABLE, HOST, PORT

#: Environment variable with the address of the service.
URL_VARIABLE: Final = 'SEGMENTATION_SERVICE'
#: Environment variable with its address for browsers, if that is different.
PUBLIC_URL_VARIABLE: Final = 'SEGMENTATION_SERVICE_PUBLIC'
DEFAULT_URL: Final = f'http://{HOST}:{PORT}'
#: Includes the time to download a large model and to wait in the queue.
PREDICT_TIMEOUT_S: Final = 600.0
#: Kind of problem if there is no response.
NO_SERVICE: Final = 'no-service'


class ServiceError(SegmentationError):
    """Raised if the service reports a problem of some `kind` or does not respond."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class DecodedInstances:
    """Instances of a picture: the instance mask, (H, W) uint16, its file, and a row for each."""

    ids: UInt16Array
    png: bytes
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class DecodedResult:
    """Result of one model for a picture; `labels` are class ids, (H, W) uint8.

    `instances` is None if the model does not tell objects apart.
    """

    model: str
    label_scheme: str
    labels: UInt8Array
    label_png: bytes
    color_png: bytes
    classes: list[dict[str, Any]]
    confidence: float
    out_of_domain: bool | None
    timings: dict[str, float]
    instances: DecodedInstances | None


def service_url() -> str:
    """Return the address of the service."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


def public_url() -> str:
    """Return the address of the service for browsers; different if it runs in a container."""
    return os.environ.get(PUBLIC_URL_VARIABLE, service_url())


def known_models() -> list[dict[str, Any]]:
    """Return the models as the service describes them; raises ServiceError."""
    models: list[dict[str, Any]] = _request('GET', '/models', timeout=10).json()['models']
    return models


def predict(model: str, image: bytes) -> DecodedResult:
    """Segment a picture, with instances if the model tells them apart; raises ServiceError."""
    if (task := _task_of(model)) is None:
        # The service may not know the task of a model before it is loaded.
        result = _predicted(model, image)
        return _predicted(model, image, 'instance') if _has_instances(_task_of(model)) else result
    return _predicted(model, image, *(['instance'] if _has_instances(task) else []))


def _has_instances(task: str | None) -> bool:
    return task not in (None, SEMANTIC)


def _task_of(model: str) -> str | None:
    return next((m['task'] for m in known_models() if m['name'] == model), None)


def _predicted(model: str, image: bytes, *more: str) -> DecodedResult:
    """Request labels, colors and more outputs."""
    response = _request(
        'POST', '/predict', timeout=PREDICT_TIMEOUT_S, files={'image': image},
        data={'model': model, 'outputs': ['label', 'color', *more]},
    )  # fmt: skip
    [result] = response.json()['results']
    label_png, color_png = (base64.b64decode(result['outputs'][k]) for k in ('label', 'color'))
    return DecodedResult(
        model=model,
        label_scheme=result['label_scheme'],
        labels=decode_label_file(label_png),
        label_png=label_png,
        color_png=color_png,
        classes=result['classes'],
        confidence=result['confidence'],
        out_of_domain=result['out_of_domain'],
        timings=result['timings'],
        instances=_instances(result),
    )


def _instances(result: dict[str, Any]) -> DecodedInstances | None:
    if result['instances'] is None:
        return None
    png = base64.b64decode(result['outputs']['instance'])
    return DecodedInstances(decode_pixels(png, cv2.IMREAD_UNCHANGED), png, result['instances'])


def _request(method: str, path: str, timeout: float, **options: Any) -> httpx.Response:
    key = os.environ.get(API_KEY_VARIABLE)
    headers = [(API_KEY_HEADER.encode(), key.encode())] if key else []
    try:
        response = httpx.request(
            method, service_url() + path, timeout=timeout, headers=headers, **options
        )
    except httpx.HTTPError as error:
        raise ServiceError(NO_SERVICE, f'{service_url()}: {error}') from error
    if response.is_success:
        return response
    try:
        problem = response.json()
        kind, detail = problem['type'].rpartition(':')[2], problem['detail']
    except (ValueError, KeyError) as error:
        raise ServiceError(NO_SERVICE, f'{service_url()} is not a segmentation service') from error
    raise ServiceError(kind, detail)
