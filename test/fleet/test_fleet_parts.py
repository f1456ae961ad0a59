# SPDX-License-Identifier: Apache-2.0
"""Parts, records and statistics of label_fleet, without Ray."""

import argparse
import importlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import fleet_simulation
import numpy as np
import pytest
from bag_making import image_cdr, image_topic, picture, stamp_ns, write_camera_bag
from fleet_making import MODEL, messages_of, segmented, write_drive
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node import __version__
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import ALL, Span
from segmentation_node.bags.writer import BagWriter
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import BagError, CheckpointError, SettingError
from segmentation_node.fleet import label_fleet
from segmentation_node.fleet.inputs import find_bags
from segmentation_node.fleet.labeling import MAX_ATTEMPTS, Job, Labeling
from segmentation_node.fleet.manifest import DONE, FAILED, Manifest
from segmentation_node.fleet.parts import MAX_PARTS, BagPlan, cut
from segmentation_node.fleet.scratch import ScratchFolder, remove_abandoned
from segmentation_node.fleet.statistics import MAX_FRAMES, LabelStatistics, worth_labeling
from segmentation_node.fleet.store import Store
from segmentation_node.fleet.worker import BagWorker
from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import load_scheme

pytest.importorskip('fsspec')
SCHEME = load_scheme('cityscapes8')


@given(
    st.integers(0, 2**62), st.integers(0, 10**13), st.floats(0.001, 1e5),
    st.lists(st.integers(-(2**63), 2**64 - 1)),
)  # fmt: skip
def test_every_stamp_is_in_one_part(
    start_ns: int, duration_ns: int, part_s: float, stamps_ns: list[int]
) -> None:
    spans = cut((start_ns, start_ns + duration_ns), part_s)
    assert len(spans) <= MAX_PARTS
    assert (spans[0].is_first, spans[-1].is_last) == (True, True)
    assert all(a.end_ns == b.start_ns for a, b in pairwise(spans))
    for stamp in [*stamps_ns, start_ns, start_ns + duration_ns]:
        assert sum(span.includes(stamp) for span in spans) == 1


def test_a_bag_is_cut_into_equal_times() -> None:
    assert cut((100, 399), 100e-9) == (Span(end_ns=200), Span(200, 300), Span(start_ns=300))
    assert cut((0, 2**63), 0) == cut(None, 60) == (ALL,)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_spans_of_a_bag_are_the_bag(tmp_path: Path, storage: str) -> None:
    with open_bag(write_drive(tmp_path / 'bag', 40, storage)) as bag:
        assert bag.time_range_ns() == (stamp_ns(0), stamp_ns(39) + 5)
        spans = cut(bag.time_range_ns(), 0.7)
        assert len(spans) == 6
        parts = [list(bag.messages(span=span)) for span in spans]
        assert all(parts)
        assert [message for part in parts for message in part] == list(bag.messages())
        assert [m.stamp_ns for m in bag.messages({'/image'}, Span(stamp_ns(3), stamp_ns(5)))] == [
            stamp_ns(3), stamp_ns(4),
        ]  # fmt: skip


def test_a_bag_out_of_order_is_not_cut(tmp_path: Path) -> None:
    for index in (0, 1):
        write_drive(tmp_path / f'part_{index}.mcap', 3)
    (tmp_path / 'whole').mkdir()
    for index in (0, 1):
        (tmp_path / f'part_{index}.mcap').rename(tmp_path / 'whole' / f'whole_{index}.mcap')
    with open_bag(tmp_path / 'whole', salvage=True) as bag:
        assert bag.time_range_ns() is None


def options(*arguments: object) -> argparse.Namespace:
    return label_fleet._parser().parse_args([*map(str, arguments), *MODEL])


def test_a_worker_writes_parts_that_equal_segment_bag(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'drives' / 'drive.mcap', 9)
    args = options(bag, '-o', tmp_path / 'out', '--part-minutes', 0.005)
    worker = BagWorker(args, threads=1)
    digest = find_checkpoint('deeplabv3plus').content_digest
    with pytest.raises(CheckpointError, match='differs from that of label_fleet'):
        worker.load(__version__, '0')
    worker.load(__version__, digest)
    (found,) = find_bags([str(bag)])
    manifest = Manifest(Store(args.output), {'model': 'm'}, SCHEME)
    labeling = Labeling([found], manifest)
    while (job := labeling.next_job(None)) is not None:
        result: Any = (
            worker.inspect(found)
            if job.part is None
            else worker.segment(found, job.span, args.output, job.file)
        )
        labeling.finish(job, json.loads(json.dumps(result)) if job.part is not None else result)
    assert labeling.is_finished
    expected = segmented(bag, tmp_path / 'expected')
    assert messages_of(tmp_path / 'out' / 'drive') == expected
    assert len(list((tmp_path / 'out' / 'drive').glob('drive_?.mcap'))) == 3
    # Read by its own reader, which compares the counts with metadata.yaml.
    with open_bag(tmp_path / 'out' / 'drive') as again:
        assert again.message_count == len(expected)
    record = labeling.records[found]
    assert (record.state, record.content['segmented'], record.content['malformed']) == (DONE, 9, 0)
    assert sum(record.content['class_shares'].values()) == pytest.approx(1)
    assert record.statistics.frames == len(record.statistics.ranked) == 9


def test_video_is_decoded_from_the_beginning_in_every_part(tmp_path: Path) -> None:
    pytest.importorskip('av')
    from video_making import video, video_bag

    packets = video(8, key_every=8, b_frames=2)
    bag = video_bag(tmp_path / 'video.mcap', packets)
    args = options(bag, '-o', tmp_path / 'out')
    worker = BagWorker(args, threads=1)
    worker.load(__version__, find_checkpoint('deeplabv3plus').content_digest)
    (found,) = find_bags([str(bag)])
    with open_bag(bag) as opened:
        spans = cut(opened.time_range_ns(), 0.5)
    assert len(spans) > 1
    masks = []
    for index, span in enumerate(spans):
        report = worker.segment(found, span, args.output, f'video/video_{index}.mcap')
        assert report['malformed'] == 0
        masks += messages_of(tmp_path / 'out' / 'video' / f'video_{index}.mcap')
    assert sorted(masks) == sorted(segmented(bag, tmp_path / 'expected'))


def rendered(labels: Any, confidence: int, distance: float | None, outside: bool | None) -> Any:
    mask = np.array(labels, np.uint8)
    return Rendered(
        np.zeros((*mask.shape, 3), np.uint8), mask, lambda: np.full_like(mask, confidence), SCHEME,
        0.5, out_of_domain=outside, distance=distance,
    )  # fmt: skip


def test_statistics_and_their_ranking() -> None:
    frames = [
        rendered([[1, 1], [1, 7]], 255, 2.0, True), rendered([[1, 1], [4, 7]], 51, 9.0, True),
        rendered([[5, 5], [5, 5]], 0, 1.0, False),
    ]  # fmt: skip
    each = [LabelStatistics.of_frame(10 + index, frame) for index, frame in enumerate(frames)]
    total = sum(each, LabelStatistics())
    assert (total.frames, total.pixels, total.out_of_domain) == (3, {1: 5, 4: 1, 5: 4, 7: 2}, 2)
    assert total.confidence == pytest.approx(0.4)
    assert total.shares(SCHEME)['vehicle'] == pytest.approx(2 / 12)
    assert LabelStatistics.from_json(json.loads(json.dumps(total.to_json()))) == total
    other = LabelStatistics.of_frame(5, rendered([[0]], 102, 4.0, True))
    assert worth_labeling([('a', total), ('b,c', other)]) == (
        'bag,stamp_ns,distance,confidence\n'
        'a,11,9.0000,0.2000\n"b,c",5,4.0000,0.4000\na,10,2.0000,1.0000\n'
    )


def test_without_distances_the_least_confident_frames_are_worth_labeling() -> None:
    each = [
        LabelStatistics.of_frame(index, rendered([[0]], 255 - index, None, None))
        for index in range(MAX_FRAMES + 5)
    ]
    total = sum(each, LabelStatistics())
    assert total.out_of_domain is None
    assert [frame.stamp_ns for frame in total.ranked] == [*range(MAX_FRAMES + 4, 4, -1)]


def test_bags_are_found_in_folders_and_lists(tmp_path: Path) -> None:
    drives = tmp_path / 'drives'
    write_camera_bag(drives / 'a' / 'folder', frames=1)
    write_camera_bag(drives / 'b.mcap', frames=1)
    (drives / 'notes.txt').write_text('no bag')
    (drives / '.hidden.mcap').write_text('')
    (tmp_path / 'list.txt').write_text(f'# of today\n{drives}\n\n{drives / "b.mcap"}\n')
    found = find_bags([f'@{tmp_path / "list.txt"}', f'file://{drives}'])
    assert [(bag.name, bag.uri, bag.is_folder) for bag in found] == [
        ('a/folder', str(drives / 'a' / 'folder'), True), ('b', str(drives / 'b.mcap'), False),
    ]  # fmt: skip
    assert [file.name for file in found[0].files] == ['folder_0.mcap', 'metadata.yaml']
    write_camera_bag(drives / 'b.db3.d' / 'b.mcap', frames=1)
    with pytest.raises(BagError, match='would both be written to'):
        find_bags([str(drives), str(drives / 'b.db3.d')])


@pytest.mark.parametrize(
    ('uri', 'says'),
    [('ftp://host/x', 'expected a path, or a URI'), ('/no/such/place', 'does not exist')],
)
def test_inputs_that_are_no_bags(uri: str, says: str) -> None:
    with pytest.raises((BagError, SettingError), match=says):
        find_bags([uri])


def test_a_file_is_put_in_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.new_file('a/b.mcap') as path:
        path.write_text('whole')
        assert not store.exists('a/b.mcap')
    with pytest.raises(BagError, match='the disk is full'), store.new_file('a/b.mcap') as path:
        _fail_after(path.write_text('half'))
    with store.new_file('a/c.mcap'):
        pass
    assert os.listdir(tmp_path / 'a') == ['b.mcap']  # noqa: PTH208
    assert store.read_all('a', '.mcap') == {'a/b.mcap': b'whole'}


def test_copies_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    kept, killed = ScratchFolder(), ScratchFolder()
    (kept.empty() / 'bag.mcap').write_text('in use')
    killed.empty()
    killed._lock.close()  # as the end of its process does
    remove_abandoned()
    assert [path.name for path in tmp_path.rglob('*.mcap')] == ['bag.mcap']
    assert len(list(tmp_path.iterdir())) == 1
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_the_simulation_adds_up() -> None:
    costs = fleet_simulation.Costs(
        frame_s=1.0, frames=10, start_s=5.0, command_s=1.0, part_bytes=4.0, worker_bandwidth=2.0,
        storage_bandwidth=2.0,
    )  # fmt: skip
    # Start, three times command, frames and transfer one after another, and the last record.
    assert fleet_simulation.duration_s(costs, 1, 3) == 5 + 3 * (1 + 10 + 2) + 1
    # Two workers share the bandwidth, and the second waits for the command once.
    assert fleet_simulation.duration_s(costs, 2, 2) == 5 + 1 + 1 + 10 + 4 + 1
    assert fleet_simulation.efficiency(costs, 2, 2) == 20 / (2 * 22)


def _fail_after(_written: int) -> None:
    raise BagError('the disk is full')


@pytest.fixture
def drive(tmp_path: Path) -> Any:
    return find_bags([str(write_camera_bag(tmp_path / 'in' / 'drive.mcap', frames=2))])[0]


REPORT: dict[str, Any] = {
    'file': None, 'messages': 1, 'segmented': 1, 'malformed': 0, 'malformed_frames': [],
    'warnings': [], 'statistics': LabelStatistics().to_json(), 'seconds': 1.0,
}  # fmt: skip
TWO_PARTS = BagPlan('/image', 2, 2, cut((0, 100), 60e-9))


def test_parts_that_are_done_are_not_done_again(tmp_path: Path, drive: Any) -> None:
    def begin() -> Labeling:
        return Labeling([drive], Manifest(Store(str(tmp_path / 'out')), {'model': 1}, SCHEME))

    first = begin()
    inspection = first.next_job(None)
    assert inspection == Job(drive)
    first.finish(inspection, TWO_PARTS)
    job = first.next_job(drive)
    assert job is not None
    first.finish(job, REPORT)
    again = begin()
    left = again.next_job(drive)
    assert left is not None
    assert (left.part, left.span) == (1, TWO_PARTS.spans[1])
    again.finish(left, REPORT)
    assert again.is_finished
    assert (begin().skipped, begin().is_finished) == (1, True)
    # A changed bag is labeled again.
    write_camera_bag(tmp_path / 'in' / 'drive.mcap', frames=3, overwrite=True)
    (drive,) = find_bags([drive.uri])
    assert begin().next_job(None) == Job(drive)


def test_other_settings_replace_results_only_if_allowed(tmp_path: Path, drive: Any) -> None:
    store = Store(str(tmp_path / 'out'))
    Manifest(store, {'model': 1}, SCHEME).begin(drive, TWO_PARTS)
    other = Manifest(store, {'model': 2}, SCHEME)
    with pytest.raises(SettingError, match='drive; choose another --output'):
        other.check([drive], overwrite=False)
    other.check([drive], overwrite=True)
    assert other.find(drive) is None


def test_a_folder_of_somebody_else_is_not_written(tmp_path: Path, drive: Any) -> None:
    (tmp_path / 'out' / 'drive').mkdir(parents=True)
    said: list[str] = []
    labeling = Labeling([drive], Manifest(Store(str(tmp_path / 'out')), {}, SCHEME), said.append)
    job = labeling.next_job(None)
    assert job is not None
    labeling.finish(job, TWO_PARTS)
    assert labeling.is_finished
    assert labeling.records[drive].state == FAILED
    assert 'is not in the manifest' in said[0]
    again = Manifest(Store(str(tmp_path / 'out')), {}, SCHEME)
    with pytest.raises(BagError, match='is not in the manifest'):
        again.begin(drive, TWO_PARTS)


def test_parts_without_some_messages_are_no_bag(tmp_path: Path, drive: Any) -> None:
    labeling = Labeling([drive], Manifest(Store(str(tmp_path / 'out')), {}, SCHEME))
    for result in (TWO_PARTS._replace(messages=3), REPORT, REPORT):
        job = labeling.next_job(None)
        assert job is not None
        labeling.finish(job, result)
    record = labeling.records[drive]
    assert record.state == FAILED
    assert 'have 2 messages, but the bag has 3' in record.content['error']


def test_a_job_that_loses_workers_fails_its_bag_in_the_end(tmp_path: Path, drive: Any) -> None:
    labeling = Labeling([drive], Manifest(Store(str(tmp_path / 'out')), {}, SCHEME))
    for _ in range(MAX_ATTEMPTS):
        assert not labeling.is_finished
        job = labeling.next_job(None)
        assert job is not None
        labeling.lose(job, 'killed')
    assert labeling.is_finished
    assert 'killed' in labeling.records[drive].content['error']


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        if name == 'ray':
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)

    monkeypatch.setattr('segmentation_node.fleet.pool.import_module', missing)
    bag = tmp_path / 'bag.mcap'
    with BagWriter(bag) as out:
        out.write(image_topic(), stamp_ns(0), image_cdr(0, picture(0)))
    assert label_fleet.main([str(bag), '-o', str(tmp_path / 'out'), *MODEL]) == 1
    assert 'label_fleet needs Ray' in capsys.readouterr().err
