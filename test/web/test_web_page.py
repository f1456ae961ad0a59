# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium: by keyboard alone, in both languages, and with axe-core."""

import base64
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S

pytest.importorskip('streamlit', reason='the page is not installed: pip install ".[web]"')
pytest.importorskip('playwright', reason='it is not installed: pip install ".[test]"')

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from test_web_live import StubCameras
from web_service import blocks, labels_of, serving

from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models, locate
from segmentation_node.images.files import decode_file, encode_jpeg, encode_png
from segmentation_node.labels import available_schemes, load_scheme
from segmentation_node.metrics import Confusion, truth_lut_of
from segmentation_node.plotting import COLORS
from segmentation_node.segmenter import Segmenter
from segmentation_node.web import api
from segmentation_node.web.live_view import streams
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.model_cache import ServedModel
from segmentation_node.web.page import epoch_chart, patterns, sample_pictures, training_runs
from segmentation_node.web.page.__main__ import streamlit_command
from segmentation_node.web.page.sample_pictures import SCHEME
from segmentation_node.web.page.service_client import URL_VARIABLE
from segmentation_node.web.page.translations import LANGUAGES, Words, texts
from segmentation_node.web.problems import KINDS
from segmentation_node.web.service_settings import PAGE_UPLOAD_MB, ServiceSettings

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
    """Address of a page that uses a service."""
    models = {'unet': 'unet', 'tiny': str(tiny_checkpoint)}
    with (
        serving(ServiceSettings(models, device='cpu')) as service,
        page_of(str(service.base_url)) as address,
    ):
        yield address


@contextmanager
def page_of(service_url: str) -> Iterator[str]:
    """Run a page that uses a service, and yield its address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    page = subprocess.Popen(
        streamlit_command('127.0.0.1', port),
        stdout=subprocess.PIPE,
        text=True,
        env={URL_VARIABLE: service_url, **_plain_environment()},
    )
    try:
        assert page.stdout is not None
        assert any('URL' in line for line in page.stdout)
        yield f'http://127.0.0.1:{port}'
    finally:
        page.kill()
        page.communicate()


def _plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != training_runs.URI_VARIABLE}


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
    page.get_by_role('button', name='Segment the image').wait_for()
    yield page
    context.close()


#: Returns whether the heading of the results is in the upper half of the screen.
IN_SIGHT = """() => {
  const top = document.getElementById('result').getBoundingClientRect().top
  return 0 <= top && top < window.innerHeight / 2
}"""
#: Returns the name of the focused element, with its label if it has one.
FOCUSED = """() => {
  const e = document.activeElement
  if (e.matches('body, main')) return ''
  const label = e.closest('label') || (e.labels && e.labels[0])
  return [e.getAttribute('aria-label'), label && label.innerText, e.innerText].join(' ')
}"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until an element with this name has the focus."""
    passed = []
    for _ in range(100):
        page.keyboard.press('Tab')
        passed.append(str(page.evaluate(FOCUSED)))
        if name in passed[-1]:
            return
    pytest.fail(f'Tab never reaches {name!r}, only {passed}')


def settled(page: Page) -> None:
    """Wait until the page is completely drawn."""
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
    page.get_by_role('button', name='Segment the image').click()
    page.get_by_role('heading', name='Download').wait_for()
    assert violations(page) == []
    page.get_by_text('Data and classes').click()
    page.get_by_role('heading', name='Example with ground truth').wait_for()
    assert violations(page) == []
    page.get_by_text('Training and scores').click()
    page.get_by_role('heading', name='Mean IoU by epoch').wait_for()
    chart = page.locator('img.sn-chart')
    assert 'U-Net: from 0.675 in epoch 3 to 0.822 in epoch 30.' in str(chart.get_attribute('alt'))
    assert chart.evaluate('image => image.naturalWidth') > 0
    assert violations(page) == []
    page.get_by_text('Français').click()
    page.get_by_role('heading', name='Apprentissage et scores des modèles').wait_for()
    page.wait_for_function("document.documentElement.lang === 'fr'")
    assert page.get_by_role('radio', name='IoU moyen par époque').is_checked()
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
    # Without a listener, the browser opens its own dialog; it must be registered in advance,
    # because one that is added when the key is pressed may be too late.
    page.on('filechooser', lambda chooser: None)
    page.goto(address)
    page.get_by_role('button', name='Segment the image').wait_for()
    settled(page)
    # Upload
    tab_to(page, 'Rendered street')
    page.keyboard.press('ArrowRight')
    page.get_by_text('Choose an image file above').wait_for()
    settled(page)
    tab_to(page, 'Upload')
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Enter')
    chooser.value.set_files(mine)
    page.get_by_alt_text('The chosen image').wait_for()
    # Compare
    tab_to(page, 'Segment the image')
    page.keyboard.press('Enter')
    page.get_by_alt_text('Segmentation by tiny').wait_for()
    page.get_by_role('heading', name='Disagreement between the models').wait_for()
    settled(page)
    # The result is visible and has the keyboard focus.
    page.wait_for_function("document.activeElement.id === 'result'")
    assert page.evaluate(IN_SIGHT)
    tab_to(page, 'Enlarge: tiny')
    page.keyboard.press('Enter')
    large = page.get_by_role('dialog').get_by_alt_text('Segmentation by tiny')
    large.wait_for()
    assert violations(page) == []
    page.keyboard.press('Escape')
    large.wait_for(state='detached')
    settled(page)
    before = page.get_by_alt_text('Segmentation by tiny').get_attribute('src')
    tab_to(page, 'Opacity of the colors')
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
    page.get_by_role('button', name='Segment the image').wait_for()
    settled(page)
    tab_to(page, 'Compare models')
    page.keyboard.press('ArrowLeft')  # the last one
    page.get_by_role('heading', name='Mean IoU by epoch').wait_for()
    settled(page)
    tab_to(page, 'Mean IoU by epoch')
    page.keyboard.press('ArrowDown')
    page.get_by_role('heading', name='Mean Dice coefficient by epoch').wait_for()
    page.reload()
    page.get_by_role('button', name='Segment the image').wait_for()
    settled(page)
    tab_to(page, 'English')
    page.keyboard.press('ArrowRight')
    page.get_by_role('heading', name='Segmentation de scènes de rue').wait_for()
    assert 'lang=fr' in page.url
    page.close()


@needs_chromium
@pytest.mark.parametrize('width', [1280, 390])
def test_live_view_is_accessible_and_can_be_paused(browser: Browser, width: int) -> None:
    graph = StubCameras()
    with serving(ServiceSettings({'unet': 'unet'}), LiveView(lambda: graph)) as service:
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
        graph.wait_for_viewers(0)  # a paused view closes its streams
        page.get_by_text('En pause').wait_for()
        page.keyboard.press('Space')
        graph.wait_for_viewers(2)
        page.close()


def upload(page: Page, name: str, data: bytes) -> None:
    page.locator('input[type=file]').set_input_files(
        {'name': name, 'mimeType': 'image/jpeg', 'buffer': data}
    )


@needs_chromium
@pytest.mark.parametrize('language', LANGUAGES)
def test_live_view_without_a_node_explains_and_links_back(browser: Browser, language: str) -> None:
    words = Words(language)
    graph = StubCameras(names=())
    back = 'http://127.0.0.1:8501'
    settings = ServiceSettings({'unet': 'unet'}, page_url=back)
    with serving(settings, LiveView(lambda: graph)) as service:
        page = browser.new_page(viewport={'width': 390, 'height': 900})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f'{service.base_url}/live?lang={language}')
        page.get_by_text(words('live_none')).wait_for()
        link = page.get_by_role('link', name=words('live_back'))
        assert link.get_attribute('href') == f'{back}/?lang={language}'
        assert page.get_by_role('table').count() == 0
        found = Axe().run(page, options={'runOnly': WCAG}).response['violations']
        assert [violation['id'] for violation in found] == []
        page.close()


@needs_chromium
def test_live_view_without_ros_says_so(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, 'find_spec', lambda _name: None)
    with serving(ServiceSettings({'unet': 'unet'})) as service:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f'{service.base_url}/live')
        page.get_by_text(Words('en')('live_no-ros')).wait_for()
        page.close()


@needs_chromium
def test_swagger_ui_shows_the_routes(browser: Browser) -> None:
    pytest.importorskip('fastapi_offline', reason='it is not installed: pip install ".[web]"')
    with serving(ServiceSettings({'unet': 'unet'})) as service:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        blocked: list[str] = []
        page.on('console', lambda message: blocked.append(message.text))
        page.goto(str(service.base_url))  # redirects to Swagger UI without a page
        page.get_by_text('Segment one image').wait_for()
        assert page.url.endswith('/docs')
        assert blocked == []
        page.close()


@needs_chromium
def test_invalid_uploads_are_explained_on_the_page(page: Page, tmp_path: Path) -> None:
    page.get_by_text('My own image').click()
    jpeg = encode_jpeg(blocks(120, 200))
    words = {
        'animation.gif': (b'GIF89a', 'The format of this file is not supported'),
        'cut.jpg': (jpeg[: len(jpeg) // 2], 'The image is damaged or incomplete'),
        'photo.heic': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'This is a HEIC photo'),
    }
    for name, (data, said) in words.items():
        upload(page, name, data)
        page.get_by_text(said).wait_for()
        settled(page)
        # The message about the previous file is gone.
        others = [text for _, text in words.values() if text != said]
        assert all(page.get_by_text(text).count() == 0 for text in others)
        assert page.get_by_role('button', name='Segment the image').is_disabled()
    large = tmp_path / 'large.jpg'
    with large.open('wb') as stream:
        stream.truncate((PAGE_UPLOAD_MB + 1) * 2**20)
    page.locator('input[type=file]').set_input_files(large)
    page.get_by_text(f'The file is larger than {PAGE_UPLOAD_MB} MB').wait_for()
    assert not page.get_by_text('This is a HEIC photo').is_visible()
    assert violations(page) == []


@needs_chromium
def test_results_belong_to_their_picture_and_models(page: Page) -> None:
    heading = page.get_by_role('heading', name='3. Compare')
    download = page.get_by_role('button', name='U-Net: labels')
    page.get_by_role('button', name='Segment the image').click()
    download.wait_for()
    settled(page)
    page.get_by_text('Street 2', exact=True).click()
    heading.wait_for(state='detached')
    download.wait_for(state='detached')
    settled(page)
    page.get_by_text('Street 1', exact=True).click()
    download.wait_for()
    settled(page)
    page.get_by_test_id('stCheckbox').get_by_text('tiny').click()
    download.wait_for(state='detached')


@needs_chromium
def test_a_sample_is_shown_with_its_truth_and_scored_against_it(page: Page) -> None:
    page.get_by_role('button', name='Segment the image').click()
    page.get_by_alt_text('Ground truth of the street').wait_for()
    table = page.get_by_role('table', name='IoU on this image')
    table.wait_for()
    example = sample_pictures.street(0)
    segmenter = Segmenter('unet', device='cpu')
    confusion = Confusion()
    lut = truth_lut_of(load_scheme(SCHEME), segmenter.scheme)
    labels = segmenter.segment([example.image_rgb]).labels[0]
    confusion.add_target(lut[example.label_ids], labels)
    scores = confusion.scores(segmenter.scheme)
    cells = {
        row[0]: row[1]
        for row in (r.split('\t') for r in table.inner_text().splitlines())
        if len(row) > 1
    }
    english = Words('en')
    assert cells['Mean IoU'] == english.percent(scores.miou())
    for name, iou in scores.class_iou().items():
        assert cells[name] == english.percent(iou)
    assert page.get_by_text('These are research models').count() == 1


@needs_chromium
def test_controls_have_enough_contrast(page: Page) -> None:
    """WCAG 1.4.11: controls have a contrast of at least 3:1 to their surroundings."""
    settled(page)
    page.get_by_test_id('stCheckbox').get_by_text('tiny').click()
    page.locator('[data-testid="stCheckbox"]:not([data-selected])').wait_for()
    settled(page)
    page.mouse.move(0, 0)
    marks = {
        'radio': '[data-testid="stRadioOption"]:not([data-selected]) > div > div >> nth=0',
        'chosen radio': '[data-testid="stRadioOption"][data-selected] > div > div >> nth=0',
        'box': '[data-testid="stCheckbox"]:not([data-selected]) label > div >> nth=0',
        'ticked box': '[data-testid="stCheckbox"][data-selected] label > div >> nth=0',
    }
    for name, selector in marks.items():
        found = decode_file(page.locator(selector).screenshot()).reshape(-1, 3) / 255
        linear = np.where(found <= 0.04045, found / 12.92, ((found + 0.055) / 1.055) ** 2.4)
        luminance = linear @ (0.2126, 0.7152, 0.0722)
        assert (luminance.max() + 0.05) / (luminance.min() + 0.05) >= 3, name


def svg_of(chart: str) -> str:
    source = re.search(r'class="sn-chart" src="data:image/svg\+xml;base64,([^"]+)"', chart)
    assert source is not None
    return base64.b64decode(source[1]).decode()


def test_numbers_follow_the_language() -> None:
    english, french = Words('en'), Words('fr')
    assert english.number(51587.44) == '51,587.4'
    assert french.number(51587.44) == '51\N{NARROW NO-BREAK SPACE}587,4'
    assert french.percent(0.5) == '50,0\N{NARROW NO-BREAK SPACE}%'
    curves = {'a': {1: 0.65, 2: 0.85}}
    texts_of = {
        words.language: re.findall('>([^<>]+)</text>', svg_of(
            epoch_chart.curve_chart('t', 'd', 'x', curves, words.short_number)))
        for words in (english, french)
    }  # fmt: skip
    assert '0.65' in texts_of['en']
    assert '0,65' in texts_of['fr']
    assert not any('.' in text for text in texts_of['fr'])


def test_curves_are_distinguishable() -> None:
    names = ('deeplabv3plus_camvid8', 'deeplabv3plus_camvid8_noaug')
    curves = {name: {1: 0.5, 2: 0.75} for name in names}
    svg = svg_of(epoch_chart.curve_chart('t', 'd', 'x', curves, str))
    for name in names:
        assert f'>{name}</text>' in svg
    assert {COLORS['blue'], COLORS['vermilion']} <= set(re.findall('stroke: (#[0-9a-f]{6})', svg))
    assert svg.count('stroke-dasharray') == 2  # the second curve, and its sample in the legend


@pytest.mark.parametrize('model', bundled_models())
def test_epochs_are_those_of_the_run(model: str) -> None:
    spec = Spec.read(locate(model) / SPEC_FILE)
    known = ServedModel(model, model)
    [run] = training_runs.runs_of_models([api._info(known).model_dump()])
    epochs = spec.provenance['recipe']['epochs']
    for metric in training_runs.CURVES:
        assert min(run.curves[metric]) >= 1
        assert max(run.curves[metric]) == epochs
    best = max(run.curves['mIoU'], key=lambda epoch: run.curves['mIoU'][epoch])
    assert best == spec.provenance['epoch']


def test_both_languages_have_the_same_texts() -> None:
    english, *others = map(texts, LANGUAGES)
    for other in others:
        assert list(other) == list(english)
        for key, text in english.items():
            assert _slots(other[key]) == _slots(text), key


def _slots(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_used_text_exists() -> None:
    folder = Path(patterns.__file__).parent
    code = '\n'.join(path.read_text(encoding='utf-8') for path in folder.glob('*.py'))
    asked = set(re.findall(r"words\(\s*'(\w+)'", code))
    assert {'title', 'run', 'legend'} <= asked <= set(texts('en'))


def test_upload_problems_are_explained() -> None:
    # Problems that requests of the page cannot cause.
    ours = {'internal-error', 'invalid-request', 'no-instances', 'not-ready', 'not-well',
            'unknown-camera', 'unknown-model', 'unknown-scheme', 'unreadable-form', 'no-docs',
            'no-ros', 'unreadable-request'}  # fmt: skip
    for kind in set(KINDS) - ours:
        assert 'detail' not in Words('fr').problem(kind, 'detail'), kind
    assert 'detail' in Words('en').problem('internal-error', 'detail')


@pytest.mark.parametrize('name', available_schemes())
def test_all_classes_look_different(name: str) -> None:
    scheme = load_scheme(name)
    seen: set[Any] = set()
    for c in scheme.classes:
        look = (c.color, patterns.pattern_of(scheme, c.id).tobytes())
        assert look not in seen or c.void, c.name
        seen.add(look)


def test_patterns_of_the_bundled_models_differ_without_color() -> None:
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
def test_charts_have_a_few_round_ticks(low: float, high: float) -> None:
    curves = {'U-Net': {1: low, 2: high}}
    svg = svg_of(epoch_chart.curve_chart('t', 'd', 'x', curves, '{:.10g}'.format))
    numbers = [float(text) for text in re.findall(r'>([\d.]+)</text>', svg)]
    values = numbers[2:]  # epochs 1 and 2 come first
    assert numbers[:2] == [1, 2]
    assert 2 <= len(values) <= 10
    assert min(values) <= high
    assert max(values) >= low
