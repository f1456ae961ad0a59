# SPDX-License-Identifier: Apache-2.0
"""The benchmark: its arithmetic on literal samples, and what it makes of them."""

import importlib.util
import json
import os
import platform
import socket
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex

from segmentation_node.bags import messages
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC
from segmentation_node.benchmark import report, run
from segmentation_node.benchmark.calls import WorkerPool
from segmentation_node.benchmark.common_model import CommonModel
from segmentation_node.benchmark.figures import Figures
from segmentation_node.benchmark.input_frames import (
    covering,
    image_frames,
    labeled_frames,
    street_frames,
)
from segmentation_node.benchmark.measurements import (
    Absent,
    Calls,
    Mask,
    Quality,
    Results,
    Stream,
    read_results,
)
from segmentation_node.benchmark.plot import OURS, age_of_images, draw_ages, draw_rates
from segmentation_node.benchmark.quality import agreement
from segmentation_node.benchmark.timing import (
    Spread,
    alternating,
    percentiles,
    rate_hz,
    spread,
    three_digits,
)
from segmentation_node.benchmark.variants import COMMON, Variant, model_title, variants_of
from segmentation_node.errors import BagError, SettingError
from segmentation_node.images.files import decode_file, encode_png
from segmentation_node.images.label_files import read_labels
from segmentation_node.paths import demo_bag
from segmentation_node.plotting import new_figure
from segmentation_node.runtimes import machine
from segmentation_node.runtimes.machine import Machine
from segmentation_node.segmenter import Segmenter

COMMON_KEY = ('net', COMMON, 'fp32')
EXACT_KEY = ('net', 'torch', 'fp32')
QUICK_KEY = ('net', 'openvino', 'bf16')
SLOPPY_KEY = ('net', 'openvino', 'int8')
MACHINE = Machine('A CPU', 2, ['amx_tile', 'avx512f'], 8.0, [], 'Linux', '3.12.1', {}, '')


def stream(key: tuple[str, str, str], first_s: float, step_s: float, age_s: float) -> Stream:
    """Five masks, the second to fourth of which count."""
    received_s = [first_s + step_s * i for i in range(5)]
    return Stream(
        *key, '64x32', cameras=1, nodes=1, round=0, transport='default', rate_hz=30.0,
        from_s=received_s[1], to_s=received_s[3],
        masks=[Mask(0, at_s - age_s, at_s) for at_s in received_s],
        stamps_kept=1.0, sent=40, received=27, lost=9,
        cpu_s=0.6, others_cpu_s=0.15, peak_rss_mb=[300.0], pss_mb=[200.0],
        stages={'infer_p50_ms': 40.0},
    )  # fmt: skip


@pytest.fixture
def results() -> Results:
    """A run of literal figures: the sloppiest is the fastest."""
    settings = {'quick': False, 'rounds': 2, 'seconds': 5.0, 'frames': '2 frames'}
    found = Results('2026-01-01', settings, MACHINE, {'net': ['torch', 'fp32']})
    for key, ms, same in (
        (COMMON_KEY, 800.0, 0.97), (EXACT_KEY, 400.0, 1.0), (QUICK_KEY, 100.0, 0.995),
        (SLOPPY_KEY, 50.0, 0.9),
    ):  # fmt: skip
        found.calls.append(Calls(*key, '64x32', 'segment', [[ms, ms + 2], [ms + 4]], [[9.0]] * 2))
        if key != COMMON_KEY:
            found.calls.append(Calls(*key, '64x32', 'network', [[ms - 8], [ms - 9]], [[8.0]] * 2))
        found.quality.append(Quality(*key, '2 frames', '64x32', same, 0.5))
        found.streams.append(stream(key, 3.0, ms / 1000, 2 * ms / 1000))
    found.absent.append(Absent('net', 'torch', 'fp16', 'calls', 'no | such units'))
    return found


# Arithmetic


def test_spread_is_median_and_quartiles() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 2)


def test_nothing_measured_is_no_number() -> None:
    assert np.isnan(spread([]).median)
    assert np.isnan(percentiles([], 50, 99)).all()
    assert np.isnan(rate_hz([1.0]))
    assert np.isnan(rate_hz([1.0, 1.0]))


def test_rate_counts_gaps_not_events() -> None:
    assert rate_hz([10.0, 10.5, 11.0]) == 2.0


@pytest.mark.parametrize(
    ('value', 'text'),
    [(1234.5, '1234'), (99.96, '100.0'), (5.0, '5.00'), (0.0512, '0.051'), (0.0, '0'),
     (float('nan'), '-')],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_turns_alternate_and_begin_with_another_each_round() -> None:
    assert list(alternating('abc', 4)) == [
        (0, 'a'), (0, 'b'), (0, 'c'),
        (1, 'b'), (1, 'c'), (1, 'a'),
        (2, 'c'), (2, 'a'), (2, 'b'),
        (3, 'a'), (3, 'b'), (3, 'c'),
    ]  # fmt: skip
    assert list(alternating([], 3)) == []


def test_agreement_is_a_share_of_all_pixels(tmp_path: Path) -> None:
    for folder, images in (
        ('a', ([[1, 2], [3, 4]], [[7, 7]])),
        ('b', ([[1, 2], [3, 5]], [[7, 8]])),
    ):
        (tmp_path / folder).mkdir()
        for index, labels in enumerate(images):
            path = tmp_path / folder / f'{index}.png'
            path.write_bytes(encode_png(np.array(labels, np.uint8)))
    a, b = (sorted((tmp_path / folder).glob('*.png')) for folder in 'ab')
    assert agreement(a, b) == 4 / 6
    assert agreement(a, a) == 1.0


# What is measured


def test_variants_are_compared_with_the_common_one_and_the_reference(tmp_path: Path) -> None:
    found = variants_of('net', ['openvino'], ['bf16', 'auto'])
    assert [v.key for v in found] == [COMMON_KEY, EXACT_KEY, QUICK_KEY]
    every = variants_of('net')
    assert len(set(every)) == len(every)
    assert not any('auto' in v.key for v in every)
    assert {'torch', 'openvino', COMMON} <= {v.runtime for v in every}
    assert model_title(str(tmp_path)) == tmp_path.name
    assert model_title('owner/name') == 'owner/name'


def test_variant_that_is_not_to_be_had_is_told_with_its_reason(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    wanted = [Variant(str(tiny_checkpoint), 'torch', 'fp7')]
    with WorkerPool(wanted, 'auto', tmp_path) as pool:
        assert pool.variants == []
    (absent,) = pool.absent
    assert absent.key == (tiny_checkpoint.name, 'torch', 'fp7')
    assert "unknown precision 'fp7'" in absent.reason


def test_without_ros_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _name: None)
    parts, note = run.measurable(run.PARTS)
    assert parts == {'network', 'segment'}
    assert 'ROS 2 is not installed' in note
    assert run.measurable(['segment']) == ({'segment'}, '')


@pytest.mark.parametrize('model', ['tiny_checkpoint', 'tiny_mask2former'])
@pytest.mark.parametrize('size_hw', [(64, 96), (75, 50)])
def test_common_model_labels_an_image_as_its_library_does(
    model: str, size_hw: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(model))
    coarse = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    image = np.asarray(cv2.resize(coarse, size_hw[::-1]), np.uint8)
    labels = CommonModel(folder, 'cpu').labels(image)
    ours = Segmenter(folder, runtime='torch', precision='fp32').segment([image]).labels[0]
    assert labels.shape == size_hw
    assert labels.dtype == np.uint8
    # Other ways to upsample move borders, and nothing else.
    assert (labels == ours).mean() > 0.7


def test_image_covers_its_size() -> None:
    image = np.zeros((20, 10, 3), np.uint8)
    image[5:15] = 200
    assert covering(image, (20, 20)).tolist() == np.full((20, 20, 3), 200).tolist()
    assert covering(image, (7, 3)).shape == (3, 7, 3)


def test_own_images_become_frames_of_the_size(tmp_path: Path) -> None:
    images = tmp_path / 'mine'
    images.mkdir()
    for name in ('b.png', 'a.png', 'c.png'):
        (images / name).write_bytes(encode_png(np.full((30, 40, 3), ord(name[0]), np.uint8)))
    frames = image_frames(images, (64, 32), 2, tmp_path / 'work')
    pixels = [decode_file(path.read_bytes()) for path in frames.images]
    assert [p.shape for p in pixels] == [(32, 64, 3)] * 2
    assert [int(p[0, 0, 0]) for p in pixels] == [ord('a'), ord('b')]
    with pytest.raises(BagError, match='holds no image'):
        image_frames(tmp_path, (64, 32), 2, tmp_path / 'none')


def test_frames_of_the_street_are_scaled_on_request(tmp_path: Path) -> None:
    large, small = (
        street_frames(size_wh, 4, tmp_path / str(size_wh)) for size_wh in ((1024, 512), (256, 256))
    )
    assert large.title == '4 frames of the bundled street'
    assert small.title == '4 frames of the bundled street, scaled to 256x256'
    with open_bag(demo_bag(), decode_images=True) as bag:
        first = messages.decode(messages.deserialize(bag.first('/image')))
        truth = messages.decode_labels(messages.deserialize(bag.first(TRUTH_TOPIC)))
    assert np.array_equal(decode_file(large.images[0].read_bytes()), first)
    assert small.scheme is not None
    assert np.array_equal(read_labels(large.labels[0], small.scheme), truth)
    scaled = read_labels(small.labels[0], small.scheme)
    assert decode_file(small.images[0].read_bytes()).shape == (256, 256, 3)
    # Every second pixel of the square in the middle, give or take one at borders of objects.
    assert (scaled == truth[::2, 256:768:2]).mean() > 0.98


def test_labeled_folder_needs_its_scheme_and_all_labels(tmp_path: Path) -> None:
    for folder in ('val/images', 'val/labels'):
        (tmp_path / folder).mkdir(parents=True)
    for name in ('0.png', '1.png'):
        (tmp_path / 'val/images' / name).write_bytes(encode_png(np.zeros((4, 8, 3), np.uint8)))
    (tmp_path / 'val/labels/0.png').write_bytes(encode_png(np.zeros((4, 8), np.uint8)))
    with pytest.raises(SettingError, match='--data-scheme'):
        labeled_frames(tmp_path, None, 'val', None)
    with pytest.raises(
        SettingError, match=r'1 of 2 frames .* have no labels, the first is 1\.png'
    ):
        labeled_frames(tmp_path, 'camvid11', 'val', None)
    frames = labeled_frames(tmp_path, 'camvid11', 'val', 1)
    assert (frames.size, len(frames.images), len(frames.labels)) == ('8x4', 1, 1)


def test_machine_is_named_by_kind_alone() -> None:
    found = machine.describe()
    text = json.dumps(asdict(found)) + found.line()
    for secret in (socket.gethostname(), str(Path.home()), str(Path.cwd())):
        assert secret not in text
    assert platform.python_version() in text
    assert f'{found.cores} cores of ' in found.line()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.libraries['torch'].split('.')[0].isdigit()
    assert 'numpy' in found.libraries


def test_processor_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_info = tmp_path / 'cpuinfo'
    cpu_info.write_text('processor : 0\nmodel name\t: A   CPU\nflags\t\t: fpu avx2 amx_tile\n')
    monkeypatch.setattr(machine, 'CPU_INFO', cpu_info)
    found = machine.describe()
    assert (found.cpu, found.cpu_flags) == ('A CPU', ['amx_tile', 'avx2'])
    assert '(AMX)' in found.line()
    (tmp_path / '0000:01:00.0').mkdir()
    (tmp_path / '0000:01:00.0/information').write_text('Model: \t\t A GPU\nIRQ: 7\n')
    monkeypatch.setattr(machine, 'GPUS', tmp_path)
    assert machine.describe().gpus == ['A GPU']
    monkeypatch.setattr(machine, 'CPU_INFO', tmp_path / 'none')
    assert machine.describe().cpu == platform.machine()


# What becomes of it


def test_results_are_read_as_written(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / 'results.json')
    assert read_results(tmp_path / 'results.json') == results


@pytest.mark.parametrize(
    'text', ['{}', 'no json', '{"format": 2}', '{"format": 99}', '{"format": 3}']
)
def test_other_files_are_no_results(text: str, tmp_path: Path) -> None:
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(SettingError, match=r'results\.json'):
        read_results(tmp_path / 'results.json')


def test_figures_of_literal_samples(results: Results) -> None:
    figures = Figures(results)
    calls = figures.calls(EXACT_KEY, '64x32')
    assert calls is not None
    assert calls.wall_ms == Spread(402.0, 401.0, 403.0, 3)
    found = figures.streams(EXACT_KEY, '64x32')
    assert found is not None
    assert found.fps.median == pytest.approx(2.5)
    assert found.latency_ms == pytest.approx((800.0, 800.0))
    assert found.start_s.median == 3.0
    assert found.cpu_ms == pytest.approx(200.0)  # 0.6 s for the three masks that count
    assert found.others_cpu_ms == pytest.approx(50.0)
    assert found.memory_mb == 300.0
    assert found.stage_ms('infer') == 40.0
    assert np.isnan(found.stage_ms('decode'))
    assert (found.sent, found.lost_share) == (40, 0.25)
    assert figures.streams(EXACT_KEY, '64x32', cameras=4) is None
    assert figures.streams(EXACT_KEY, '64x32', transport='profile') is None


def test_rates_of_several_cameras_add_up(results: Results) -> None:
    one = stream(EXACT_KEY, 3.0, 0.4, 0.8)
    masks = [replace(mask, camera=camera) for camera in (0, 1) for mask in one.masks]
    results.streams = [replace(one, cameras=2, masks=masks, nodes=2, pss_mb=[200.0, 150.0])]
    found = Figures(results).streams(EXACT_KEY, '64x32', cameras=2, nodes=2)
    assert found is not None
    assert found.fps.median == pytest.approx(5.0)
    assert found.own_memory_mb == 350.0


def test_fastest_is_none_whose_labels_are_others(results: Results) -> None:
    assert Figures(results).fastest('net', '64x32') == QUICK_KEY
    results.calls = []
    assert Figures(results).fastest('net', '64x32') == QUICK_KEY
    results.quality = results.quality[:1]
    assert Figures(results).fastest('net', '64x32') is None


def test_page_has_a_line_for_each_variant_and_quality_beside_speed(results: Results) -> None:
    page = report.page(results)
    assert '| openvino bf16 | 102 [101, 103] | 91.5 [91.2, 91.8] | 9.00 | 7.86 | 99.50 |' in page
    assert '| as commonly written | 802 [801, 803] | - | 9.00 | 1.00 | 97.00 | 50.00 |' in page
    row = '| openvino bf16 | default | 10.0 [10.0, 10.0] | 200 | 200 | 200 | 50.0 | 191 | 8.00 '
    assert f'{row}| 102 | 40 | 25.00 |' in page
    assert page.count('| openvino int8 |') == 2
    assert '| net | torch fp16 | calls | no \\| such units |' in page
    assert '2 cores of A CPU (AMX); 8 GB; Linux; Python 3.12.1' in page


def test_chapter_shows_common_default_and_fastest(results: Results, tmp_path: Path) -> None:
    readme = tmp_path / 'README.md'
    readme.write_text('# A\n<!-- speed: written -->\nold\n<!-- end of speed -->\nend\n')
    results.write(tmp_path / 'results.json')
    assert report.main([str(tmp_path / 'results.json'), '--readme', str(readme)]) == 0
    text = readme.read_text()
    rows = [line for line in text.splitlines() if line.startswith('| `net`')]
    assert [row.split('|')[3].strip() for row in rows] == [
        'as commonly written', 'torch fp32 (`auto`)', 'openvino bf16'
    ]  # fmt: skip
    assert '10.0 (8.00 x)' in rows[2]
    assert 'old' not in text
    assert text.endswith('<!-- end of speed -->\nend\n')


def test_summary_names_the_instruction_sets_of_every_run(results: Results, tmp_path: Path) -> None:
    pages = [tmp_path / 'README.md', tmp_path / 'benchmark.md']
    pages[0].write_text('<!-- speed-summary: written -->\n<!-- end of speed-summary -->\n')
    pages[1].write_text('<!-- speed: written -->\n<!-- end of speed -->\n')
    files = [tmp_path / name / 'results.json' for name in ('all', 'limited')]
    for file, limit in zip(files, ('', 'AVX2'), strict=True):
        file.parent.mkdir()
        results.machine = replace(results.machine, isa_limit=limit)
        results.write(file)
    assert report.main([*map(str, files), '--readme', *map(str, pages)]) == 0
    rows = [line for line in pages[0].read_text().splitlines() if '| `net` |' in line]
    assert [row.split('|')[1].strip() for row in rows] == [
        *['2 cores of A CPU (AMX)'] * 3, *['2 cores of A CPU (AMX), limited to AVX2'] * 3
    ]  # fmt: skip
    assert '10.0 (8.00 x) | 200, 200 | ' in rows[2]
    assert pages[1].read_text().count('| `net` |') == len(rows)


def test_page_without_a_place_is_left_alone(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / 'README.md'
    readme.write_text('# A\n')
    results.write(tmp_path / 'results.json')
    assert report.main([str(tmp_path / 'results.json'), '--readme', str(readme)]) == 1
    assert '0 places for the table of speed' in capsys.readouterr().err
    assert readme.read_text() == '# A\n'


def test_quick_run_is_called_one(results: Results) -> None:
    assert 'figures are not representative' not in report.page(results)
    results.settings['quick'] = True
    assert 'figures are not representative' in report.chapter(results)


def test_age_is_told_from_the_second_mask_on() -> None:
    found = age_of_images(stream(EXACT_KEY, 3.0, 0.5, 0.25))
    assert found == [(0.5, 0.25), (1.0, 0.25), (1.5, 0.25), (2.0, 0.25)]


def test_bars_are_as_long_as_their_rates(results: Results) -> None:
    with new_figure(400, 200) as figure:
        axes = figure.subplots()
        assert draw_rates(axes, Figures(results), 'net', '64x32')
        names = [text.get_text() for text in axes.get_yticklabels()]
        bars = dict(zip(names, axes.containers[0], strict=True))
    rates = {name: bar.get_width() for name, bar in bars.items()}
    assert rates == pytest.approx({
        'as commonly written': 1.25, 'torch fp32': 2.5, 'openvino bf16': 10, 'openvino int8': 20,
    })  # fmt: skip
    colors = {name: to_hex(bar.get_facecolor()) for name, bar in bars.items()}
    assert colors['openvino bf16'] == OURS.color
    assert len(set(colors.values())) == 3


def test_ages_are_drawn_of_the_baseline_and_the_fastest_equal_one(results: Results) -> None:
    with new_figure(400, 200) as figure:
        axes = figure.subplots()
        assert draw_ages(axes, Figures(results), 'net', '64x32')
        ages = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert ages == {
        'as commonly written': pytest.approx([1.6] * 4),
        'openvino bf16': pytest.approx([0.2] * 4),
    }


def test_group_without_a_node_says_so(results: Results) -> None:
    results.streams.clear()
    with new_figure(400, 200) as figure:
        axes = figure.subplots()
        assert not draw_ages(axes, Figures(results), 'net', '64x32')
        assert not draw_rates(axes, Figures(results), 'net', '64x32')


def test_picture_has_a_row_for_each_size(results: Results, tmp_path: Path) -> None:
    results.streams.append(replace(results.streams[0], size='128x64'))
    *_, picture = report.write_pages(results, tmp_path)
    pixels = decode_file(picture.read_bytes())
    assert pixels.shape[1] == 1640
    assert pixels.shape[0] > 700
