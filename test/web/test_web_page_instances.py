# SPDX-License-Identifier: Apache-2.0
"""Instances on the page: outlines, table and download, in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from patience import PATIENCE_S

pytest.importorskip('streamlit', reason='the page is not installed: pip install ".[web]"')
pytest.importorskip('playwright', reason='it is not installed: pip install ".[test]"')

from panoptic_models import PANOPTIC, picture, write_hub_model
from test_web_page import browser as browser
from test_web_page import needs_chromium, page_of, settled, violations
from web_service import serving

from segmentation_node.images.files import encode_png
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.page.translations import Words
from segmentation_node.web.service_settings import ServiceSettings

IMAGE_RGB = picture(2, 256, 320)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_hub_model(tmp_path_factory.mktemp('hub') / PANOPTIC))


@pytest.fixture(scope='module')
def address(model: str, tiny_checkpoint: Path) -> Iterator[str]:
    models = {'panoptic': model, 'tiny': str(tiny_checkpoint)}
    settings = ServiceSettings(models, runtime='torch', precision='fp32', device='cpu')
    with serving(settings) as service, page_of(str(service.base_url)) as address:
        yield address


@needs_chromium
@pytest.mark.parametrize('language', ['en', 'fr'])
def test_instances_of_a_panoptic_model(
    browser: Any, address: str, model: str, language: str
) -> None:
    words = Words(language)
    rendered = Segmenter(model, runtime='torch', precision='fp32', device='cpu').render(IMAGE_RGB)
    assert rendered.detections
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f'{address}/?lang={language}')
    page.get_by_text(words('from_upload')).click()
    mine = {'name': 'mine.png', 'mimeType': 'image/png', 'buffer': encode_png(IMAGE_RGB)}
    page.locator('input[type=file]').set_input_files(mine)
    page.get_by_role('button', name=words('run')).click()
    table = page.get_by_role('table', name=words('instances_table', model='panoptic'))
    table.wait_for()
    cells = table.locator('tbody tr').evaluate_all(
        'rows => rows.map(row => [...row.children].map(cell => cell.innerText.trim()))'
    )
    assert cells == [
        [
            str(segment.id), words.class_name(name), words.percent(segment.score),
            words('box_value', **segment.box._asdict()),
        ]
        for segment, name in rendered.detections
    ]  # fmt: skip
    # The model without instances has no such table.
    assert page.get_by_role('table', name=words('instances_table', model='tiny')).count() == 0
    settled(page)
    alt = words('result_alt', model='panoptic', largest='').partition('.')[0]
    outlined = page.get_by_alt_text(alt).get_attribute('src')
    others = page.get_by_alt_text(alt.replace('panoptic', 'tiny')).get_attribute('src')
    page.get_by_text(words('outlines')).click()
    page.wait_for_function('src => !document.querySelector(`img[src="${src}"]`)', arg=outlined)
    settled(page)
    assert page.get_by_alt_text(alt.replace('panoptic', 'tiny')).get_attribute('src') == others
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role('button', name=words('download_instance', model='panoptic')).click()
    assert download.value.suggested_filename == 'panoptic_instance.png'
    mask = cv2.imread(str(download.value.path()), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask, rendered.instance_mask)
    page.close()
