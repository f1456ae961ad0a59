# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium: by keyboard alone, in both languages, and with axe-core."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest

pytest.importorskip('streamlit', reason='the page is not installed: pip install ".[web]"')
pytest.importorskip('playwright', reason='it is not installed: pip install ".[test]"')

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from test_web_live import StubGraph
from web_service import PATIENCE_S, blocks, labels_of, serving

from segmentation_node.image_files import encode_jpeg, encode_png
from segmentation_node.labels import available_schemes, load_scheme
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.live import Live
from segmentation_node.web.page import patterns, runs
from segmentation_node.web.page.__main__ import streamlit_command
from segmentation_node.web.page.charts import ticks
from segmentation_node.web.page.client import URL_VARIABLE
from segmentation_node.web.page.texts import LANGUAGES, Words, texts
from segmentation_node.web.problems import KINDS
from segmentation_node.web.settings import Settings

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason='Chromium is not installed: apt install chromium'
)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update',
         '--disable-sync']  # fmt: skip
WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']


@pytest.fixture(scope='module')
def address(tiny_checkpoint: Path) -> Iterator[str]:
    """A service and a page that talks to it."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    models = {'unet': 'unet', 'tiny': str(tiny_checkpoint)}
    with serving(Settings(models, device='cpu')) as service:
        environment = {URL_VARIABLE: str(service.base_url), **_plain_environment()}
        page = subprocess.Popen(
            streamlit_command('127.0.0.1', port),
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            assert page.stdout is not None
            assert any('URL' in line for line in page.stdout)
            yield f'http://127.0.0.1:{port}'
        finally:
            page.kill()
            page.communicate()


def _plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != runs.URI_VARIABLE}


@pytest.fixture(scope='module')
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={'width': request.param, 'height': 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(address)
    page.get_by_role('button', name='Segment the picture').wait_for()
    yield page
    context.close()


#: What the element in focus is called, with its label where it has one.
FOCUSED = """() => {
  const e = document.activeElement
  if (e.matches('body, main')) return ''
  const label = e.closest('label') || (e.labels && e.labels[0])
  return [e.getAttribute('aria-label'), label && label.innerText, e.innerText].join(' ')
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of that name is in focus."""
    passed = []
    for _ in range(100):
        page.keyboard.press('Tab')
        passed.append(str(page.evaluate(FOCUSED)))
        if name in passed[-1]:
            return
    pytest.fail(f'Tab never comes to {name!r}, only to {passed}')


def settled(page: Page) -> None:
    """Wait until the page has been drawn to its end."""
    page.locator('[data-test-script-state="notRunning"]').wait_for(state='attached')
    page.wait_for_function('!document.querySelector(\'[data-stale="true"]\')')


def violations(page: Page) -> list[str]:
    """Return the violations of WCAG A and AA that axe-core finds."""
    settled(page)
    found = Axe().run(page, options={'runOnly': WCAG}).response['violations']
    return [f'{v["id"]}: {n["html"][:200]}' for v in found for n in v['nodes']]


@needs_chromium
def test_every_view_in_both_languages_is_accessible(page: Page, address: str) -> None:
    assert violations(page) == []
    page.get_by_role('button', name='Segment the picture').click()
    page.get_by_role('heading', name='Download').wait_for()
    assert violations(page) == []
    page.get_by_text('Data and classes').click()
    page.get_by_role('heading', name='An example and its truth').wait_for()
    assert violations(page) == []
    page.get_by_text('Training and scores').click()
    page.get_by_role('heading', name='Mean IoU over the epochs').wait_for()
    chart = page.locator('img.sn-chart')
    assert 'U-Net: from 0.675 in epoch 3' in str(chart.get_attribute('alt'))
    assert chart.evaluate('image => image.naturalWidth') > 0
    assert violations(page) == []
    page.get_by_text('Français').click()
    page.get_by_role('heading', name='apprentissage des modèles').wait_for()
    page.wait_for_function("document.documentElement.lang === 'fr'")
    assert page.get_by_role('radio', name='IoU moyen au fil des époques').is_checked()
    assert violations(page) == []
    wide = page.evaluate('document.documentElement.scrollWidth > window.innerWidth')
    assert not wide, 'the page is wider than the screen'


@needs_chromium
def test_everything_can_be_done_by_keyboard(
    browser: Browser, address: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    mine = tmp_path / 'mine.png'
    mine.write_bytes(encode_png(blocks(120, 200)))
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    # Without anyone listening, the browser opens its own dialog, and it learns of a listener
    # only some time after: one who comes as late as the key is pressed may miss it.
    page.on('filechooser', lambda chooser: None)
    page.goto(address)
    page.get_by_role('button', name='Segment the picture').wait_for()
    settled(page)
    # Upload
    tab_to(page, 'a drawn street')
    page.keyboard.press('ArrowRight')
    page.get_by_text('Choose a picture file above').wait_for()
    settled(page)
    tab_to(page, 'Upload')
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Enter')
    chooser.value.set_files(mine)
    page.get_by_alt_text('The chosen picture').wait_for()
    # Compare
    tab_to(page, 'Segment the picture')
    page.keyboard.press('Enter')
    page.get_by_alt_text('Segmentation by tiny').wait_for()
    page.get_by_role('heading', name='Where the models disagree').wait_for()
    settled(page)
    before = page.get_by_alt_text('Segmentation by tiny').get_attribute('src')
    tab_to(page, 'Strength of the colours')
    page.keyboard.press('ArrowRight')
    page.wait_for_function('src => !document.querySelector(`img[src="${src}"]`)', arg=before)
    # Download
    settled(page)
    tab_to(page, 'tiny: labels')
    with page.expect_download() as download:
        page.keyboard.press('Enter')
    expected = Segmenter(str(tiny_checkpoint)).segment([blocks(120, 200)])
    saved = Path(download.value.path()).read_bytes()
    assert np.array_equal(labels_of(saved), expected.labels[0])
    assert download.value.suggested_filename == 'tiny_label.png'
    # Another view, another metric, another language
    page.reload()
    page.get_by_role('button', name='Segment the picture').wait_for()
    settled(page)
    tab_to(page, 'Compare models')
    page.keyboard.press('ArrowLeft')  # the last one
    page.get_by_role('heading', name='Mean IoU over the epochs').wait_for()
    settled(page)
    tab_to(page, 'Mean IoU over the epochs')
    page.keyboard.press('ArrowDown')
    page.get_by_role('heading', name='Loss in validation over the epochs').wait_for()
    page.reload()
    page.get_by_role('button', name='Segment the picture').wait_for()
    settled(page)
    tab_to(page, 'English')
    page.keyboard.press('ArrowRight')
    page.get_by_role('heading', name='Segmentation de scènes de rue').wait_for()
    assert 'lang=fr' in page.url
    page.close()


@needs_chromium
@pytest.mark.parametrize('width', [1280, 390])
def test_live_view_is_accessible_and_can_be_paused(browser: Browser, width: int) -> None:
    graph = StubGraph()
    with serving(Settings({'unet': 'unet'}), Live(lambda: graph)) as service:
        page = browser.new_page(viewport={'width': width, 'height': 900})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f'{service.base_url}/live?lang=fr')
        events, picture = graph.wait_for_viewers(2)
        events([{'name': '/car/segmentation_node', 'message': 'segmenting', 'published': '7'}])
        picture(encode_jpeg(blocks(360, 480)))
        page.get_by_alt_text('Image de la caméra /car/segmentation_node').wait_for()
        page.get_by_role('cell', name='7').wait_for()
        page.wait_for_function("document.querySelector('img').naturalWidth === 480")
        found = Axe().run(page, options={'runOnly': WCAG}).response['violations']
        assert [violation['id'] for violation in found] == []
        assert not page.evaluate('document.documentElement.scrollWidth > window.innerWidth')
        tab_to(page, 'Pause')
        page.keyboard.press('Space')
        graph.wait_for_viewers(0)  # who pauses asks for nothing any more
        page.get_by_text('En pause').wait_for()
        page.keyboard.press('Space')
        graph.wait_for_viewers(2)
        page.close()


@needs_chromium
def test_what_is_no_picture_is_told_in_plain_words(page: Page) -> None:
    page.get_by_text('a picture of mine').click()
    page.locator('input[type=file]').set_input_files(
        {'name': 'me.png', 'mimeType': 'image/png', 'buffer': b'GIF89a'}
    )
    page.get_by_text('This file is not a picture that can be read here').wait_for()
    assert page.get_by_role('button', name='Segment the picture').is_disabled()


def test_both_languages_say_the_same() -> None:
    english, *others = map(texts, LANGUAGES)
    for other in others:
        assert list(other) == list(english)
        for key, text in english.items():
            assert _places(other[key]) == _places(text), key


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_text_that_is_asked_for_is_there() -> None:
    folder = Path(patterns.__file__).parent
    code = '\n'.join(path.read_text(encoding='utf-8') for path in folder.glob('*.py'))
    asked = set(re.findall(r"words\(\s*'(\w+)'", code))
    assert {'title', 'run', 'legend'} <= asked <= set(texts('en'))


def test_problems_of_uploads_are_told_in_plain_words() -> None:
    # The page sends whole requests: the last is for clients that do not.
    ours = {'internal-error', 'invalid-request', 'not-ready', 'not-well', 'unknown-camera',
            'unknown-model', 'unknown-scheme', 'unreadable-form', 'no-ros',
            'unreadable-request'}  # fmt: skip
    for kind in set(KINDS) - ours:
        assert 'detail' not in Words('fr').problem(kind, 'detail'), kind
    assert 'detail' in Words('en').problem('internal-error', 'detail')


@pytest.mark.parametrize('name', available_schemes())
def test_no_two_classes_look_alike(name: str) -> None:
    scheme = load_scheme(name)
    seen: set[Any] = set()
    for c in scheme.classes:
        look = (c.color, patterns.pattern_of(scheme, c.id).tobytes())
        assert look not in seen or c.void, c.name
        seen.add(look)


def test_patterns_of_the_bundled_models_differ_without_colour() -> None:
    scheme = load_scheme('cityscapes8')
    inks = {patterns.pattern_of(scheme, c.id).tobytes() for c in scheme.classes}
    assert len(inks) == len(scheme.classes)


def test_disagreement_is_counted_and_shown() -> None:
    one, other = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    other[:10] = 3
    picture, share = patterns.disagreement(blocks(40, 40), [one, other, one])
    assert share == 0.25
    orange = (picture == (230, 97, 0)).all(axis=2)
    assert orange[:10].any()
    assert not orange[10:].any()


@pytest.mark.parametrize(('low', 'high'), [(0.0, 1.0), (0.65, 0.83), (3, 30), (5, 5)])
def test_ticks_hold_the_values_between_them(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
