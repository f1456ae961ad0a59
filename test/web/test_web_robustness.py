# SPDX-License-Identifier: Apache-2.0
"""Tests of the service with arbitrary requests: it answers as documented and never fails.

For a longer test, run `python test/web_load.py fuzz`.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')
pytest.importorskip('schemathesis', reason='it is not installed: pip install ".[test]"')

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from image_bytes import tiff, webp
from patience import PATIENCE_S
from test_web_live import StubCameras
from web_load import fuzz
from web_service import blocks, serving

from segmentation_node.images.files import encode_jpeg, encode_png
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.service_settings import ServiceSettings


@pytest.fixture(scope='module')
def client(tiny_checkpoint: Path) -> Iterator[httpx.Client]:
    models = {'tiny': str(tiny_checkpoint)}
    with serving(ServiceSettings(models, device='cpu'), LiveView(StubCameras)) as client:
        yield client


def test_damaged_uploads_are_refused_and_never_a_failure(client: httpx.Client) -> None:
    small = blocks(40, 56)
    samples = [encode_jpeg(small), encode_png(small), encode_png(small[..., 0]), tiff(),
               webp(small), webp(small, 60)]  # fmt: skip
    seen = set()
    for answer in fuzz(client, samples, 200):
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:  # damage that a decoder does not mind, or not see
            assert answer.headers['content-type'] == 'application/problem+json'
        seen.add(answer.status_code)
    assert {415, 422} <= seen


PNG = encode_png(blocks(40, 56))


@pytest.fixture(scope='module')
def description(client: httpx.Client) -> Any:
    """OpenAPI schema of the service, with valid image files; damaged ones are tested above."""
    schema = schemathesis.openapi.from_url(f'{client.base_url}/openapi.json')

    @schema.hook
    def map_body(_context: Any, body: Any) -> Any:
        if isinstance(body, dict):
            if isinstance(body.get('image'), bytes | str):
                body['image'] = PNG
            if isinstance(body.get('images'), list):
                body['images'] = [PNG for _ in body['images']]
        return body

    return schema


@pytest.mark.parametrize('mode', list(schemathesis.GenerationMode), ids=str)
def test_the_service_is_as_it_describes_itself(
    mode: schemathesis.GenerationMode, description: Any
) -> None:
    """Requests as described are answered as described, and others refused."""
    tried = set()
    for found in description.get_all_operations():
        operation = found.ok()
        if operation.path == '/live/events':
            continue  # it has no end

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=20, suppress_health_check=list(HealthCheck), derandomize=True)
        def answer_is_valid(case: Any) -> None:
            case.call_and_validate(timeout=PATIENCE_S)  # the first request converts the network

        with suppress(Unsatisfiable):  # nothing can be wrong with a request without parameters
            answer_is_valid()
            tried.add(operation.path)
    assert {'/predict', '/predict/batch'} <= tried
