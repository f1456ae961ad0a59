# SPDX-License-Identifier: Apache-2.0
"""Tests of reports on tracked runs, parsed like in a browser and a screen reader."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric
from repository import ROOT

from segmentation_node.images.files import encode_png
from segmentation_node.images.rendering import colorize
from segmentation_node.labels import load_scheme
from segmentation_node.plotting import spread
from training.compare import main
from training.report.augmentation import pairs
from training.report.charts import bar_chart
from training.report.comparability import Aspect, caveats, group
from training.report.drawing import THEME
from training.report.records import Record, read_records
from training.report.selection import choose
from training.report.summary import COLUMNS, cells, duration
from training.tracking import METRICS, Run, client

CATEGORIES = load_scheme('cityscapes8')
HOSTILE = '<script>alert(1)</script>"\'&amp;<img src=http://example.org/x>'
STYLE = ROOT / 'training' / 'report' / 'page.css'

PARAMS: Mapping[str, object] = {
    'family': 'unet', 'label_scheme': 'cityscapes8', 'network.encoder_name': 'resnet18',
    'train.0.set': 'camvid', 'train.0.split': 'train', 'train.0.count': None, 'train.0.share': 6,
    'val.camvid val.set': 'camvid', 'val.camvid val.split': 'val', 'augment': True,
    'crop_hw': [256, 352], 'precision': 'fp32', 'learning_rate': 0.002, 'hardest': 1.0,
    'class_balance': 0.0, 'dice': 0.0,
}  # fmt: skip
TAGS: Mapping[str, str] = {
    'git_revision': '0123456789abcdef', 'machine': '2 threads, a processor',
    'loss_kind': 'cross-entropy', 'val_fingerprint': 'aaaabbbbcccc',
    'train_fingerprint': 'ddddeeeeffff', 'version.torch': '2.15.0',
}  # fmt: skip

VOID = ('area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source')


@dataclass
class Element:
    """Element of a page with the text of its descendants."""

    tag: str
    attrs: dict[str, str]
    children: list['Element'] = field(default_factory=list)
    text: str = ''

    def all(self, *tags: str) -> list['Element']:
        """Return the descendants with these tags, in document order."""
        below = [e for child in self.children for e in (child, *child.all())]
        return [e for e in below if not tags or e.tag in tags]

    def words(self) -> str:
        """Return the text with normalized whitespace."""
        return ' '.join(self.text.split())


class Page(HTMLParser):
    """Page as a tree of elements; an incorrectly closed element is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = Element('', {})
        self.source = path.read_text(encoding='utf-8')
        self._open = [self.root]
        self.feed(self.source)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(self._open[-1].children[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or '' for key, value in attrs})
        assert len(element.attrs) == len(attrs)
        self._open[-1].children.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return self.root.all(*tags)

    def by_id(self, name: str) -> Element:
        [found] = [e for e in self.all() if e.attrs.get('id') == name]
        return found

    def table(self, caption: str) -> list[list[str]]:
        """Return the cell texts of the table with a caption that starts with `caption`."""
        [found] = [
            table
            for table in self.all('table')
            if table.all('caption')[0].words().startswith(caption)
        ]
        rows = found.all('tr')
        return [[cell.words() for cell in row.all('th', 'td')] for row in rows]

    def notes(self, section: str = '') -> list[str]:
        """Return the warnings of one section or of the whole page."""
        place = self.by_id(section) if section else self.root
        return [e.words() for e in place.all('div') if e.attrs.get('role') == 'note']


@pytest.fixture(scope='module', autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working directory with its own MLflow store."""
    folder = tmp_path_factory.mktemp('compare')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv('MLFLOW_TRACKING_URI', raising=False)
        yield folder


def rows_of(epochs: int, quality: float) -> list[dict[str, float]]:
    """Figures that rise in each epoch and fall in the last one."""
    rows = []
    for epoch in range(epochs):
        share = quality * (epoch + 1) / epochs - (0.3 if epoch == epochs - 1 else 0)
        row = dict.fromkeys(METRICS, 1.0 + epoch)
        row |= {
            'mIoU': share, 'Dice': share + 0.05, 'pixel_acc': share + 0.1,
            'val_loss': 2 - share, 'imgs_per_sec': 10 * (2 - quality), 'train_time_sec': 60.0,
            'mIoU/camvid val': share, 'mIoU/scenes val': share / 2,
        }  # fmt: skip
        row |= {'IoU/flat': share, 'IoU/sky': share / 2, 'Dice/flat': share, 'Dice/sky': 0.25}
        rows.append(row)
    return rows


def street(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Label ids with sky above flat and a vehicle, (20, 40)."""
    ids = np.full((20, 40), 1, np.uint8)
    ids[:10] = 5
    ids[12:16, seed : seed + 8] = 7
    return ids


def write_files(artifacts: Path) -> None:
    """Write all artifacts of a run."""
    truth, predicted = street(4), street(4)
    predicted[:, :4] = 2  # 80 of 800 pixels
    for name in ('seq1_01', 'seq1_02'):
        pictures = {'image': colorize(truth, CATEGORIES) // 2 + 60}
        pictures |= {'truth': colorize(truth, CATEGORIES)}
        pictures |= {'prediction': colorize(predicted, CATEGORIES)}
        for kind, picture in pictures.items():
            put(artifacts / 'examples' / f'{name}_{kind}.png', encode_png(picture))
    for epoch in (1, 2, 3):
        grid = encode_png(np.full((30, 60, 3), epoch, np.uint8))
        put(artifacts / 'grid' / f'epoch_{epoch:04}.png', grid)
    confusion = {'classes': ['flat', 'sky', 'human'], 'counts': [[6, 2, 0], [0, 8, 0], [1, 0, 3]]}
    put(artifacts / 'confusion.json', json.dumps(confusion).encode())
    scores = {
        'data': 'camvid val', 'mode': 'whole', 'label_scheme': 'cityscapes8', 'frames': 101,
        'figures': {'mIoU': 0.5125, 'IoU/flat': 0.75},
    }  # fmt: skip
    put(artifacts / 'evaluation' / 'camvid' / 'scores.json', json.dumps(scores).encode())
    provenance = '{family: unet, label_scheme: cityscapes8, provenance: {parameters: 1250000}}'
    put(artifacts / 'checkpoint' / 'segmentation.yaml', provenance.encode())


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def track(
    study: str,
    name: str,
    rows: Sequence[Mapping[str, float]],
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    files: bool = False,
    status: str = 'FINISHED',
) -> Run:
    """Track a run like training does."""
    made = len(list(Path('runs').glob(f'{study}-*')))
    run = Run(Path('runs', f'{study}-{made}'))
    run.start(study, name, {**PARAMS, **(params or {})}, {**TAGS, **(tags or {})})
    for epoch, row in enumerate(rows):
        run.log(epoch, row)
    if files:
        write_files(run.artifacts)
    run.finish(status)
    return run


def records_of(study: str) -> list[Record]:
    store = client()
    return read_records(store, choose(store, [], study).runs)


@pytest.fixture(scope='module')
def whole(workplace: Path) -> Page:
    """Report on three runs: with and without augmentation, and a Mask2Former."""
    track('whole', 'augmented', rows_of(3, 0.75), files=True)
    track('whole', 'plain', rows_of(3, 0.6), {'augment': False}, files=True)
    other = {'family': 'mask2former', 'network.encoder_name': ''}
    track('whole', 'masks', rows_of(2, 0.66), other, {'loss_kind': 'set loss'}, files=True)
    assert main(['--study', 'whole', '--output', 'deep/whole.html']) == 0
    return Page(workplace / 'deep' / 'whole.html')


@pytest.fixture(scope='module')
def bare(workplace: Path) -> Page:
    """Report on a run with figures only and on a run without any."""
    track('bare', 'figures only', [{'mIoU': 0.5}])
    empty = track('bare', 'empty', [])
    first = str(Path('runs', 'bare-0'))
    assert main([first, empty.id, '--output', 'bare.html']) == 0
    return Page(workplace / 'bare.html')


@pytest.fixture(scope='module')
def record(whole: Page) -> Record:
    """One run, as a base for variants."""
    return records_of('whole')[0]


@pytest.fixture(params=['whole', 'bare'])
def page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


def test_page_loads_nothing(page: Page) -> None:
    assert not page.all('script', 'link', 'iframe', 'object', 'embed', 'audio', 'video', 'use')
    for element in page.all():
        assert not [key for key in element.attrs if key.startswith('on')]
        assert element.attrs.get('href', '#').startswith('#')
        assert element.attrs.get('src', 'data:image/').startswith('data:image/')
        assert not {'srcset', 'poster', 'action', 'background'} & set(element.attrs)
    assert not re.search(r'url\(|@import|https?:', page.source)


def test_page_forbids_itself_to_load_anything(page: Page) -> None:
    [policy] = [e for e in page.all('meta') if 'http-equiv' in e.attrs]
    assert policy.attrs['content'].startswith("default-src 'none';")


def test_every_picture_has_a_text_alternative(page: Page) -> None:
    for image in page.all('img'):
        assert len(image.attrs['alt']) > 10
        assert int(image.attrs['width']) > 0 < int(image.attrs['height'])
    for drawing in page.all('svg'):
        assert drawing.attrs['role'] == 'img'
        for name in drawing.attrs['aria-labelledby'].split():
            assert page.by_id(name).words()
    assert len(page.all('svg')) >= 3


def test_every_chart_has_its_numbers_as_a_table(whole: Page) -> None:
    charts = [figure for figure in whole.all('figure') if figure.all('svg')]
    assert len(charts) > 15
    for chart in charts:
        assert chart.all('details')[0].all('table')
        assert len(chart.all('desc')[0].words()) > 30


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [e.attrs['id'] for e in page.all() if 'id' in e.attrs]
    assert len(ids) == len(set(ids))
    assert {e.attrs['href'][1:] for e in page.all('a')} <= set(ids)
    used = [e.attrs['aria-labelledby'].split() for e in page.all() if 'aria-labelledby' in e.attrs]
    assert {name for names in used for name in names} <= set(ids)


def test_headings_are_in_order_and_landmarks_are_there(page: Page) -> None:
    assert page.all('html')[0].attrs['lang'] == 'en'
    assert page.all('title')[0].words()
    levels = [int(e.tag[1]) for e in page.all('h1', 'h2', 'h3', 'h4', 'h5', 'h6')]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for tag in ('header', 'nav', 'main', 'footer'):
        assert len(page.all(tag)) == 1
    first_link = page.all('a')[0]
    assert first_link.attrs['class'] == 'skip'
    assert page.by_id(first_link.attrs['href'][1:]).tag == 'main'


def test_tables_say_what_their_cells_mean(page: Page) -> None:
    assert page.all('table')
    for table in page.all('table'):
        assert table.all('caption')[0].words()
        assert all(th.attrs['scope'] in ('col', 'row', 'rowgroup') for th in table.all('th'))
        assert all(th.words() for th in table.all('th'))
        widths = {len(row.all('th', 'td')) for row in table.all('tr')}
        assert len(widths) == 1 or table.all('th')[-1].attrs['scope'] == 'rowgroup'


def test_what_scrolls_can_be_reached_by_keyboard(page: Page) -> None:
    scrolling = [e for e in page.all('div') if e.attrs.get('class') == 'scroll']
    assert all(e.attrs['tabindex'] == '0' and e.attrs['aria-label'] for e in scrolling)
    assert len(scrolling) == len(page.all('table'))


def test_table_has_the_logged_figures_of_the_best_epoch(whole: Page) -> None:
    head, augmented, plain, masks = whole.table('Scores and validation loss')
    assert head[:4] == ['Run', 'Model', 'Parameters, million', 'Best epoch']
    assert augmented == [
        'A augmented', 'unet resnet18', '1.25', '2 of 3', '0.5000 highest', '0.5500 highest',
        '0.6000 highest', '1.5000 lowest of A, B cross-entropy', '12.5', '2.0 fastest',
        '3 min 00 s', '3',
    ]  # fmt: skip
    assert plain[3:5] == ['2 of 3', '0.4000']
    assert plain[8] == '14.0 fastest'
    assert masks[3:5] == ['2 of 2', '0.3600']
    assert masks[7] == '1.6400 set loss'
    assert masks[-1] == '2 least'


def test_best_is_told_by_weight_and_word_not_by_color_alone(whole: Page) -> None:
    marked = [td for td in whole.all('td') if td.attrs.get('class') == 'best']
    assert len(marked) == 8
    assert all(td.all('strong')[0].words() and td.all('span')[0].words() for td in marked)


def test_chart_shows_every_epoch_of_every_run(whole: Page) -> None:
    [chart] = [f for f in whole.all('figure') if f.all('h4') and f.all('h4')[0].text == 'mIoU']
    cells = [[c.words() for c in row.all('th', 'td')] for row in chart.all('tr')]
    assert cells == [
        ['Epoch', 'A (augmented)', 'B (plain)', 'C (masks)'],
        ['1', '0.2500', '0.2000', '0.3300'],
        ['2', '0.5000', '0.4000', '0.3600'],
        ['3', '0.4500', '0.3000', 'none'],
    ]
    assert 'A (augmented): 0.2500 in epoch 1, 0.4500 in epoch 3' in chart.all('desc')[0].words()
    lines = [e.attrs for e in chart.all('path') if e.attrs.get('class') == 'curve']
    styles = [dict(part.split(': ') for part in line['style'].split('; ')) for line in lines]
    colors = [style['stroke'] for style in styles]
    assert colors == ['var(--blue)', 'var(--vermilion)', 'var(--green)']
    assert len({style.get('stroke-dasharray', '') for style in styles}) == 3
    assert [len(re.findall('[ML]', line['d'])) for line in lines] == [3, 3, 2]
    letters = [e.text for e in chart.all('text') if e.attrs.get('class') == 'letter']
    assert sorted(letters) == ['A', 'B', 'C']


def test_losses_of_different_kinds_share_no_chart(whole: Page) -> None:
    titles = [h.words() for h in whole.all('h4') if 'loss' in h.words()]
    assert titles == [
        'Training loss: cross-entropy', 'Validation loss: cross-entropy',
        'Training loss: set loss', 'Validation loss: set loss',
    ]  # fmt: skip


def test_classes_stand_in_the_order_of_their_scheme(whole: Page) -> None:
    rows = whole.table('IoU by class')
    assert rows == [
        ['Class', 'A (augmented)', 'B (plain)', 'C (masks)'],
        ['flat', '0.5000', '0.4000', '0.3600'],
        ['sky', '0.2500', '0.2000', '0.1800'],
    ]


def test_other_validation_sets_are_told(whole: Page) -> None:
    assert whole.table('mIoU at the best epoch by validation set')[1:] == [
        ['camvid val', '0.5000', '0.4000', '0.3600'],
        ['scenes val', '0.2500', '0.2000', '0.1800'],
    ]


def test_augmentation_is_one_table(whole: Page) -> None:
    assert whole.table('Runs of one family') == [
        ['Family', 'Score', 'Off', 'On', 'Gain', 'Other differences'],
        ['unet B off, A on', 'mIoU', '0.4000', '0.5000', '+0.1000', 'none'],
        ['Dice', '0.4500', '0.5500', '+0.1000'],
        ['Pixel accuracy', '0.5000', '0.6000', '+0.1000'],
    ]


def test_settings_are_told_where_they_differ(whole: Page) -> None:
    differing = {row[0]: row[1:] for row in whole.table('Settings that differ')[1:]}
    assert differing['augment'] == ['True', 'False', 'True']
    assert differing['family'] == ['unet', 'unet', 'mask2former']
    same = {row[0]: row[1:] for row in whole.table('Settings, the same')[1:]}
    assert same['learning_rate'] == ['0.002']
    assert not set(same) & set(differing)


def test_confusion_is_in_shares_of_the_truth(whole: Page) -> None:
    assert whole.table('Confusion matrix of A') == [
        ['Truth', 'flat', 'sky', 'human', 'Pixels'],
        ['flat', '75.0', '25.0', '0.0', '8'],
        ['sky', '0.0', '100.0', '0.0', '8'],
        ['human', '25.0', '0.0', '75.0', '4'],
    ]
    assert '25.0 % of flat classified as sky' in whole.by_id('confusion').words()


def test_same_images_stand_side_by_side(whole: Page) -> None:
    alts = [image.attrs['alt'] for image in whole.by_id('pictures').all('img')]
    assert alts[0] == 'Validation image seq1_01.'
    assert alts[1] == 'Truth of seq1_01: 50 % sky, 46 % flat, 4 % vehicle.'
    wrong = '90.0 % of the pixels are correct; the most frequent error is'
    assert alts[2].startswith(f'Prediction of A (augmented) for seq1_01: {wrong}')
    assert [alt.split(' for')[0] for alt in alts[2:5]] == [
        'Prediction of A (augmented)', 'Prediction of B (plain)', 'Prediction of C (masks)',
    ]  # fmt: skip
    grids = [alt for alt in alts if alt.startswith('Validation images after')]
    assert len(grids) == 6
    assert 'after epoch 3 of A' in grids[1]


def test_evaluations_of_the_checkpoints_are_told(whole: Page) -> None:
    rows = {row[0]: row[1:] for row in whole.table('Figures of the evaluation camvid')[1:]}
    assert rows['mode'] == ['whole'] * 3
    assert rows['mIoU'] == ['0.5125'] * 3


def test_missing_files_are_told(bare: Page) -> None:
    words = bare.by_id('main').words()
    for run in ('A (figures only)', 'B (empty)'):
        assert f'{run} has no confusion matrix: confusion.json is not among its files.' in words
        assert f'{run} has no example pictures among its files.' in words
        assert f'{run} has no grid of validation images among its files.' in words
        assert f'{run} has no evaluation of its checkpoint among its files.' in words
    assert 'B (empty) has no mIoU.' in words
    assert 'No run has scores by class.' in words
    assert not bare.all('img')


def test_damaged_files_are_told(workplace: Path) -> None:
    run = track('damaged', 'odd', rows_of(2, 0.5), files=True)
    cut = run.artifacts / 'examples' / 'seq1_01_truth.png'
    cut.write_bytes(cut.read_bytes()[:60])
    small = encode_png(np.zeros((4, 4, 3), np.uint8))
    (run.artifacts / 'examples' / 'seq1_02_truth.png').write_bytes(small)
    (run.artifacts / 'confusion.json').write_text('{"classes": ["a"], "counts": [[1, 2]]}')
    (run.artifacts / 'checkpoint' / 'segmentation.yaml').write_text(': [')
    (run.artifacts / 'evaluation' / 'camvid' / 'scores.json').write_text('[1]')
    run.finish('FINISHED')
    assert main([str(run.folder), '--output', 'damaged.html']) == 0
    words = Page(workplace / 'damaged.html').by_id('main').words()
    assert 'odd) cannot be read: confusion.json, counts of shape (1, 2)' in words
    assert 'no readable examples/seq1_01_truth.png' in words
    assert 'pictures of different sizes for seq1_02' in words
    assert 'no readable evaluation/camvid/scores.json' in words


def test_hostile_text_is_text(workplace: Path) -> None:
    figures = [{'mIoU': 0.5, f'IoU/{HOSTILE[:9].strip("<>")}': 0.5}]
    run = track('hostile', HOSTILE, figures, {'notes': HOSTILE}, {'machine': HOSTILE}, files=True)
    names = ['<b>flat</b>', 'a"b']
    confusion = {'classes': names, 'counts': [[1, 2], [3, 4]]}
    (run.artifacts / 'confusion.json').write_text(json.dumps(confusion))
    run.finish('FINISHED')
    other = track('hostile', HOSTILE, figures, {'family': HOSTILE}, {'loss_kind': HOSTILE})
    assert main([run.id, other.id, '--output', 'hostile.html']) == 0
    page = Page(workplace / 'hostile.html')
    assert not page.all('script', 'b')
    assert {image.attrs['src'][:11] for image in page.all('img')} == {'data:image/'}
    assert page.by_id('outcome').words().count(f'({HOSTILE})') == 2
    assert any(HOSTILE in drawing.all('desc')[0].text for drawing in page.all('svg')[2:4])
    assert [row[0] for row in page.table('Confusion matrix')[1:]] == names


DIFFERENT: list[tuple[str, dict[str, str], dict[str, str], Aspect]] = [
    ('different kinds', {}, {'loss_kind': 'cross-entropy + 1 Dice'}, Aspect.LOSS),
    ('different kinds', {'hardest': '0.4'}, {}, Aspect.LOSS),
    ('different kinds', {'class_balance': '0.5'}, {}, Aspect.LOSS),
    ('different label schemes', {'label_scheme': 'camvid11'}, {}, Aspect.QUALITY),
    ('validated on the same data', {}, {'val_fingerprint': 'ffff'}, Aspect.QUALITY),
    ('validated on the same data', {}, {'val_fingerprint': ''}, Aspect.INFERENCE),
    ('same kind of machine', {}, {'machine': 'another'}, Aspect.INFERENCE),
    ('different precisions', {'precision': 'bf16'}, {}, Aspect.COST),
    ('crops or batches', {'crop_hw': '[64, 64]'}, {}, Aspect.COST),
    ('Epochs have different lengths', {'train.0.count': '100'}, {}, Aspect.EPOCHS),
    ('Epochs have different lengths', {'train.0.set': 'scenes'}, {}, Aspect.EPOCHS),
    ('trained on different data', {}, {'train_fingerprint': 'ffff'}, Aspect.ORIGIN),
    (
        'trained on different data',
        {'train.1.set': 'scenes', 'train.1.split': 'train'},
        {},
        Aspect.ORIGIN,
    ),
    ('different revisions', {}, {'git_revision': 'ffff'}, Aspect.ORIGIN),
]


@pytest.mark.parametrize(('text', 'params', 'tags', 'aspect'), DIFFERENT)
def test_difference_is_warned_of_where_it_matters(
    record: Record, text: str, params: dict[str, str], tags: dict[str, str], aspect: Aspect
) -> None:
    other = varied(record, 'B', params, tags)
    found = [caveat for caveat in caveats([record, other]) if text in caveat.text]
    assert len(found) == 1
    assert aspect in found[0].aspects
    assert re.search(r'A: .*B: .*\.$', found[0].text)
    assert group(record, aspect) != group(other, aspect)


def varied(
    record: Record, letter: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> Record:
    return replace(
        record, letter=letter, params={**record.params, **params}, tags={**record.tags, **tags}
    )


def test_equal_runs_are_not_warned_of(record: Record) -> None:
    assert caveats([record, varied(record, 'B', {'learning_rate': '1'}, {})]) == []
    assert caveats([record]) == []
    assert caveats([varied(record, 'A', {}, {'machine': ''})]) == []


def test_two_runs_of_unknown_data_are_warned_of_too(record: Record) -> None:
    unknown = {'val_fingerprint': '', 'machine': ''}
    found = caveats([varied(record, letter, {}, unknown) for letter in 'AB'])
    assert [caveat.text.count('A, B: unknown') for caveat in found] == [1, 1]


def test_second_validation_set_is_not_what_scores_are_measured_on(record: Record) -> None:
    more = {'val_fingerprint': f'{TAGS["val_fingerprint"]} ffff'}
    assert caveats([record, varied(record, 'B', {}, more)]) == []


def test_training_data_is_named(record: Record) -> None:
    more = {'train.10.set': 'scenes', 'train.10.split': 'val', 'train.2.set': 'own'}
    [found] = caveats([record, varied(record, 'B', more, {})])
    assert 'A: camvid train (fingerprint ddddeeeeffff); B: camvid train and own' in found.text
    assert 'own ? and scenes val (fingerprint' in found.text


def test_unequal_runs_are_warned_of(record: Record) -> None:
    short = replace(record, letter='B', curves={'mIoU': {1: 0.5}})
    broken = replace(record, letter='C', status='RUNNING')
    texts = [caveat.text for caveat in caveats([record, short, broken])]
    assert len(texts) == 2
    assert texts[0].endswith('A, C: 3 epochs; B: 1 epoch.')
    assert texts[1].endswith('A, B: finished; C: not finished (running).')


def test_page_warns_beside_what_is_affected(whole: Page, bare: Page) -> None:
    assert len(whole.notes('outcome')) == 1
    assert 'different kinds' in whole.notes('curves')[1]
    assert 'Validation loss; Training time' in whole.notes('summary')[0]
    assert whole.notes('classes') == []
    assert whole.notes('speed') == []
    assert not [note for note in bare.notes() if 'different kinds' in note]


def test_only_what_may_be_compared_is_ranked(record: Record) -> None:
    score = next(column for column in COLUMNS if column.title == 'mIoU')
    worse = replace(record, letter='B', curves={'mIoU': {1: 0.1}})
    elsewhere = varied(replace(record, letter='C'), 'C', {}, {'val_fingerprint': 'ffff'})
    marks = [cell.mark for cell in cells([record, worse, elsewhere], score)]
    assert marks == ['highest of A, B', '', '']
    assert [cell.mark for cell in cells([record, worse], score)] == ['highest', '']
    assert [cell.mark for cell in cells([record], score)] == ['']
    alike = [record, replace(record, letter='B')]
    assert [cell.mark for cell in cells(alike, score)] == ['', '']


def test_augmentation_pairs_the_most_alike(record: Record) -> None:
    far = varied(record, 'B', {'learning_rate': '1', 'dice': '1', 'seed': '2'}, {})
    new = {'train.0.scale': 'None', 'data_root': 'elsewhere'}  # neither affects the result
    off = varied(record, 'C', {'augment': 'False', 'epochs': '9', **new}, {})
    other_family = varied(record, 'D', {'family': 'deeplabv3plus'}, {})
    other_data = varied(record, 'E', {'epochs': '9'}, {'val_fingerprint': 'ffff'})
    [pair] = pairs([other_data, other_family, off, far, record])
    assert (pair.off.letter, pair.on.letter) == ('C', 'A')
    assert pair.differing == ('epochs',)
    assert pairs([off, other_data, other_family]) == []


def test_epoch_that_was_run_again_counts_once(workplace: Path) -> None:
    run = track('again', 'resumed', [{'mIoU': 0.9}, {'mIoU': 0.2}])
    later = 4_000_000_000_000
    client().log_batch(run.id, metrics=[Metric('mIoU', 0.3, later, 0)])
    [record] = records_of('again')
    assert record.curves['mIoU'] == {1: 0.3, 2: 0.2}
    assert record.best_epoch == 1


def test_the_best_epoch_of_a_panoptic_run_has_the_highest_pq(record: Record) -> None:
    curves = {'mIoU': {1: 0.9, 2: 0.5, 3: 0.6}, 'PQ': {1: 0.1, 2: 0.4, 3: 0.4}}
    assert replace(record, curves=curves).best_epoch == 2
    assert replace(record, curves={'mIoU': curves['mIoU']}).best_epoch == 1


def test_study_alone_means_its_finished_runs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track('study', 'done', rows_of(2, 0.5))
    track('study', 'stopped', rows_of(2, 0.5), status='KILLED')
    # The parent run of a search has the best score of its trials.
    search = track('study', 'search', rows_of(1, 0.4), tags={'search.trials': '1'})
    track('study', 'trial', rows_of(2, 0.4), tags={'mlflow.parentRunId': search.id})
    assert main(['--study', 'study', '--output', 'study.html']) == 0
    printed = capsys.readouterr().out
    page = Page(workplace / 'study.html')
    assert [row[0] for row in page.table('Scores and')[1:]] == ['A done']
    for sentence in (
        'stopped is not finished (killed).',
        'search is a search, not a model.',
        'trial is a trial of a search; --trials includes it.',
    ):
        assert sentence in page.by_id('outcome').words()
        assert sentence in printed
    assert main(['--study', 'study', '--trials', '--output', 'study.html']) == 0
    page = Page(workplace / 'study.html')
    assert [row[0] for row in page.table('Scores and')[1:]] == ['A done', 'B trial']


def test_runs_come_by_name_id_and_folder_once_each(whole: Page, workplace: Path) -> None:
    wanted = ['masks', 'runs/whole-0', records_of('whole')[0].id]
    assert main(['--study', 'whole', *wanted, '--output', 'chosen.html']) == 0
    page = Page(workplace / 'chosen.html')
    assert [row[0] for row in page.table('Scores and')[1:]] == ['A masks', 'B augmented']


def test_finished_run_is_meant_among_those_of_a_name() -> None:
    track('names', 'twice', rows_of(1, 0.5), status='FAILED')
    finished = track('names', 'twice', rows_of(1, 0.5))
    [run] = choose(client(), ['twice'], 'names').runs
    assert run.info.run_id == finished.id


ERRORS: list[tuple[list[str], list[str]]] = [
    (['f' * 32], ['there is no run fff', "'augmented' ("]),
    (['nowhere'], ['neither the id of a run nor a folder', '--study', "'augmented' ("]),
    (['nowhere', '--study', 'whole'], ["study 'whole' has no run 'nowhere'", "'plain' ("]),
    (['--study', 'nothing'], ["no study 'nothing'", "'whole'"]),
    (['--study', 'killed'], ["study 'killed' has no finished run", "'a' (", 'killed)']),
    (['b', '--study', 'killed'], ["2 runs named 'b'; give an id"]),
    (['early'], ['has not been sent', 'python -m training.tracking early']),
    (['broken'], ['broken/run.json cannot be read', 'give the id']),
    (['gone'], ['gone names run fff', "'augmented' ("]),
]


@pytest.fixture(scope='module')
def oddities(whole: Page, workplace: Path) -> None:
    """Unusable runs and folders."""
    for name in 'abb':
        track('killed', name, [], status='KILLED')
    put(workplace / 'early' / 'run.json', b'{"run_id": ""}')
    put(workplace / 'broken' / 'run.json', b'{')
    put(workplace / 'gone' / 'run.json', json.dumps({'run_id': 'f' * 32}).encode())


@pytest.mark.parametrize(('arguments', 'told'), ERRORS)
def test_run_that_cannot_be_found_is_an_error_that_names_the_others(
    oddities: None,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: list[str],
) -> None:
    assert main([*arguments, '--output', 'error.html']) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert all(text in error for text in told), error
    assert not (workplace / 'error.html').exists()


def test_deleted_run_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    run = track('deleted', 'away', rows_of(1, 0.5))
    client().delete_run(run.id)
    assert main([run.id, '--output', 'error.html']) == 1
    assert f'there is no run {run.id}' in capsys.readouterr().err


def test_nothing_to_compare_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(['--output', 'error.html'])
    assert caught.value.code == 2
    assert 'name the runs to compare' in capsys.readouterr().err


def test_page_that_cannot_be_written_is_an_error(
    bare: Page, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / 'file').write_text('kept')
    assert main(['runs/bare-0', '--output', 'file/page.html']) == 1
    assert 'choose another file as --output' in capsys.readouterr().err
    (workplace / 'folder' / 'full').mkdir(parents=True)
    assert main(['runs/bare-0', '--output', 'folder']) == 1
    assert list(workplace.glob('*.new')) == []


def test_store_that_is_down_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:9')
    assert main(['--study', 'whole', '--output', 'error.html']) == 1
    assert 'http://127.0.0.1:9' in capsys.readouterr().err


def blocks(css: str) -> dict[str, dict[str, str]]:
    """Return the custom properties of each color scheme."""
    found = re.findall(r':root \{(.*?)\}', css, re.DOTALL)
    light, dark, printed = (dict(re.findall(r'--([\w-]+): ([^;]+);', text)) for text in found)
    assert set(light) == set(dark) == set(printed)
    return {'light': light, 'dark': dark, 'print': printed}


def luminance(rgb: Sequence[float]) -> float:
    """Return the relative luminance of values in 0..255, as defined by WCAG 2."""
    shares = [value / 255 for value in rgb]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb_of(text: str) -> list[int]:
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.mark.parametrize('scheme', ['light', 'dark', 'print'])
def test_contrast_is_enough_for_wcag_aa(scheme: str) -> None:
    colors = blocks(STYLE.read_text(encoding='utf-8'))[scheme]
    series = ('blue', 'vermilion', 'green', 'purple', 'ochre', 'gray')
    on = {
        'ink': ('page', 'panel', 'note', 'best'),
        'quiet': ('page', 'panel', 'best'),
        'link': ('page', 'panel', 'note'),
        **dict.fromkeys(series, ('page', 'panel')),  # letters are text
    }
    for text, grounds in on.items():
        for ground in grounds:
            found = contrast(rgb_of(colors[text]), rgb_of(colors[ground]))
            assert found >= 4.5, (text, ground, found)
    for edge, ground in (('edge', 'page'), ('edge', 'panel'), ('note-edge', 'note')):
        assert contrast(rgb_of(colors[edge]), rgb_of(colors[ground])) >= 3, (edge, ground)
    heat, page = [int(v) for v in colors['heat'].split()], rgb_of(colors['page'])
    for share in np.linspace(0, float(colors['heat-most']), 20):
        cell = [share * h + (1 - share) * p for h, p in zip(heat, page, strict=True)]
        assert contrast(rgb_of(colors['ink']), cell) >= 4.5


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x76, 0x76, 0x76), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_letters_at_the_ends_of_lines_do_not_overlap(wanted: list[float]) -> None:
    placed = spread(wanted, 12, 0, 200)
    ordered = sorted(placed)
    assert all(b - a >= 12 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert -1e-9 <= ordered[0] <= ordered[-1] <= 200 + 1e-9


def test_drawings_have_the_colors_of_the_style_sheet() -> None:
    colors = blocks(STYLE.read_text(encoding='utf-8'))['light']
    assert {name: colors[name] for name in THEME} == THEME


def test_same_runs_give_the_same_charts(whole: Page, workplace: Path) -> None:
    assert main(['--study', 'whole', '--output', 'twice.html']) == 0
    again = Page(workplace / 'twice.html')
    charts = [re.findall('<svg .*?</svg>', page.source) for page in (whole, again)]
    assert len(charts[0]) > 15
    assert charts[0] == charts[1]


def test_bars_are_as_long_as_their_values(record: Record) -> None:
    chart = bar_chart('IoU', [record, record], {'flat': [0.2, 0.8], 'sky': [None, 1.0]})
    document = ET.fromstring(str(chart.drawing.__html__()))  # noqa: S314, ours
    outlines = [
        e.attrib['d'] for e in document.iter('path') if 'fill: var(--' in e.attrib['style']
    ]
    lengths = [_width(d) for d in outlines if d.count('L') == 3]
    assert lengths == pytest.approx([lengths[0], 0, 4 * lengths[0], 5 * lengths[0]], rel=0.02)
    texts = [e.text for e in document.iter('text')]
    assert {'0.200', '0.800', 'none', '1.000', 'flat', 'sky'} <= set(texts)


def _width(outline: str) -> float:
    columns = [float(x) for x in re.findall(r'[ML] (\S+)', outline)]
    return max(columns) - min(columns)


def test_durations_are_told_as_far_as_they_matter() -> None:
    assert duration(4.26) == '4.3 s'
    assert duration(59.96) == '1 min 00 s'
    assert duration(3599.7) == '1 h 00 min'
