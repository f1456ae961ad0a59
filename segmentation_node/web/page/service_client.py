# SPDX-License-Identifier: Apache-2.0
"""The page's side of the service."""

import base64
import os
from dataclasses import dataclass
from typing import Any, Final

import httpx

from segmentation_node.errors import SegmentationError
from segmentation_node.images.label_files import decode_label_file
from segmentation_node.images.rendering import LabelImage
from segmentation_node.web.access import HEADER
from segmentation_node.web.settings import API_KEY_VARIABLE, HOST, PORT

#: Where the page finds the service.
URL_VARIABLE: Final = 'SEGMENTATION_SERVICE'
#: Where browsers do, if elsewhere.
PUBLIC_URL_VARIABLE: Final = 'SEGMENTATION_SERVICE_PUBLIC'
DEFAULT_URL: Final = f'http://{HOST}:{PORT}'
#: A large model is fetched from a hub within this, and the queue before us worked off.
PATIENCE_S: Final = 600.0
#: The kind of problem where there is no answer at all.
NO_SERVICE: Final = 'no-service'


class ServiceError(SegmentationError):
    """The service refuses, or does not answer; `kind` is that of the problem."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """What one model made of the picture: label ids, (H, W) uint8, and what belongs to them."""

    model: str
    label_scheme: str
    labels: LabelImage
    label_png: bytes
    color_png: bytes
    classes: list[dict[str, Any]]
    confidence: float
    timings: dict[str, float]


def service_url() -> str:
    """Address of the service."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


def public_url() -> str:
    """Address of the service as browsers reach it, which may be another in a container."""
    return os.environ.get(PUBLIC_URL_VARIABLE, service_url())


def known_models() -> list[dict[str, Any]]:
    """The models as the service describes them; raises ServiceError."""
    found: list[dict[str, Any]] = _asked('GET', '/models', timeout=10).json()['models']
    return found


def predict(model: str, image: bytes) -> Answer:
    """Have a picture segmented; raises ServiceError."""
    response = _asked(
        'POST', '/predict', timeout=PATIENCE_S, files={'image': image},
        data={'model': model, 'outputs': ['label', 'color']},
    )  # fmt: skip
    [result] = response.json()['results']
    label_png, color_png = (base64.b64decode(result['outputs'][k]) for k in ('label', 'color'))
    return Answer(
        model=model,
        label_scheme=result['label_scheme'],
        labels=decode_label_file(label_png),
        label_png=label_png,
        color_png=color_png,
        classes=result['classes'],
        confidence=result['confidence'],
        timings=result['timings'],
    )


def _asked(method: str, path: str, timeout: float, **what: Any) -> httpx.Response:
    key = os.environ.get(API_KEY_VARIABLE)
    headers = [(HEADER.encode(), key.encode())] if key else []
    try:
        response = httpx.request(
            method, service_url() + path, timeout=timeout, headers=headers, **what
        )
    except httpx.HTTPError as error:
        raise ServiceError(NO_SERVICE, f'{service_url()}: {error}') from error
    if response.is_success:
        return response
    try:
        problem = response.json()
        kind, detail = problem['type'].rpartition(':')[2], problem['detail']
    except (ValueError, KeyError) as error:
        raise ServiceError(NO_SERVICE, f'{service_url()} is another service') from error
    raise ServiceError(kind, detail)
