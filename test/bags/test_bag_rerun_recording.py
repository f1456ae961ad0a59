# SPDX-License-Identifier: Apache-2.0
"""Recordings for the Rerun viewer have what the segmented bag has; read back with Rerun's SDK."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bag_making import image_cdr, image_topic, picture, stamp_ns, wait_for_file, write_camera_bag
from known_model import BLACK, known_image, write_known_model
from panoptic_models import PANOPTIC, write_hub_model
from panoptic_models import picture as street
from rerun.chunk import RrdReader
from test_bag_segment_bag import MASK, decoded, pixels

from segmentation_node.bags import rerun_recording
from segmentation_node.bags.rerun_recording import (
    CAMERA,
    CLASS_SHARE,
    CONFIDENCE,
    CONSISTENCY,
    DISTANCE,
    IMAGE,
    INSTANCES,
    LABELS,
    RerunRecording,
)
from segmentation_node.bags.segment_bag import main
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError
from segmentation_node.images.files import decode_file
from segmentation_node.images.rendering import Rendered
from segmentation_node.instances import Thresholds
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter

OPTIONS = ('--outputs', 'label_mask,confidence', '--quiet')


@pytest.fixture
def run(tiny_checkpoint: Path) -> Any:
    def run_with(*arguments: object, model: Path = tiny_checkpoint) -> int:
        known = ('--model', model, '--device', 'cpu', '--precision', 'fp32', *OPTIONS)
        return main([str(argument) for argument in (*arguments, *known)])

    return run_with


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint: Path) -> Segmenter:
    return Segmenter(str(tiny_checkpoint), device='cpu', precision='fp32')


def rows(path: Path, entity: str, *, static: bool = False) -> list[dict[str, Any]]:
    """Return what a recording has of an entity, in the order of its frames."""
    found = [
        row
        for chunk in RrdReader(path).stream()
        if chunk.entity_path == f'/{entity}' and chunk.is_static == static
        for row in chunk.to_record_batch().to_pylist()
    ]
    return found if static else sorted(found, key=lambda row: int(row['frame']))


def scalars(path: Path, entity: str) -> list[list[float]]:
    return [row['Scalars:scalars'] for row in rows(path, entity)]


def labels_of(row: dict[str, Any]) -> Any:
    (shape,) = row['SegmentationImage:format']
    (values,) = row['SegmentationImage:buffer']
    return np.array(values, np.uint8).reshape(shape['height'], shape['width'])


def image_of(row: dict[str, Any]) -> Any:
    (jpeg,) = row['EncodedImage:blob']
    assert row['EncodedImage:media_type'] == ['image/jpeg']
    return decode_file(bytes(jpeg))


def frame_at(stamp: int) -> Any:
    seconds, nanoseconds = divmod(stamp, 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds))
    )


def test_a_recording_has_the_images_masks_and_scores_of_the_bag(tmp_path: Path, run: Any) -> None:
    bag = write_camera_bag(tmp_path / 'drive', frames=5)
    out, rrd = tmp_path / 'out', tmp_path / 'new' / 'seen.rrd'
    assert run(bag, '-o', out, '--rrd', rrd) == 0
    masks = decoded(out, MASK)
    confidences = decoded(out, MASK.replace('label_mask', 'confidence'))
    labels, shares = rows(rrd, LABELS), scalars(rrd, CLASS_SHARE)
    images, sure = rows(rrd, IMAGE), scalars(rrd, CONFIDENCE)
    assert len(masks) == len(labels) == len(shares) == 5
    ids = [c.id for c in load_scheme('cityscapes8').classes]
    for index, ((_, mask), row) in enumerate(zip(masks, labels, strict=True)):
        assert row['frame'] == index
        assert row['stamp'].value == stamp_ns(index)
        assert np.array_equal(labels_of(row), pixels(mask))
        counted = [(mask.data == label).mean() for label in ids]
        assert shares[index] == pytest.approx(counted)
        image = image_of(images[index])
        assert np.abs(image.astype(int) - picture(index)).mean() < 8
        assert sure[index] == pytest.approx([confidences[index][1].data.mean() / 255])
    assert all(0 <= share <= 1 for (share,) in scalars(rrd, CONSISTENCY))
    assert not rows(rrd, DISTANCE)
    assert not rows(rrd, INSTANCES)
    assert not (tmp_path / 'new' / 'seen.new.rrd').exists()


def test_a_recording_names_the_classes_and_has_a_layout(tmp_path: Path, run: Any) -> None:
    bag, rrd = write_camera_bag(tmp_path / 'drive', frames=1), tmp_path / 'seen.rrd'
    assert run(bag, '-o', tmp_path / 'out', '--rrd', rrd) == 0
    classes = load_scheme('cityscapes8').classes
    (row,) = rows(rrd, CAMERA, static=True)
    (context,) = row['AnnotationContext:context']
    found = [each['class_description']['info'] for each in context]
    assert [each['class_id'] for each in context] == [c.id for c in classes]
    expected = [(c.id, c.name, bytes([*c.color, 255])) for c in classes]
    assert expected == [(i['id'], i['label'], i['color'].to_bytes(4, 'big')) for i in found]
    (curves,) = rows(rrd, CLASS_SHARE, static=True)
    assert curves['SeriesLines:names'] == [c.name for c in classes]
    (blueprint,) = RrdReader(rrd).blueprints()
    (recording,) = RrdReader(rrd).recordings()
    assert blueprint.application_id == recording.application_id == 'segmentation_node'
    named = [row.get('RecordingInfo:name') for row in rows(rrd, '__properties', static=True)]
    assert ['drive'] in named


def test_instances_are_boxes_and_those_of_a_frame_go_with_it(tmp_path: Path, run: Any) -> None:
    model, rrd = write_hub_model(tmp_path / PANOPTIC), tmp_path / 'seen.rrd'
    images = [street(1, 96, 128), street(2, 96, 128)]
    with BagWriter(tmp_path / 'in') as bag:
        for index, image in enumerate(images):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, image))
    options = ('--runtime', 'torch', '--min-instance-overlap', '0.1', '--rrd', rrd)
    assert run(tmp_path / 'in', '-o', tmp_path / 'out', *options, model=model) == 0
    segmenter = Segmenter(
        str(model), runtime='torch', precision='fp32', thresholds=Thresholds(overlap=0.1)
    )
    for image, row in zip(images, rows(rrd, INSTANCES), strict=True):
        found = segmenter.render(image).detections
        assert found
        assert row['Boxes2D:class_ids'] == [each.segment.class_id for each in found]
        assert [label.split()[0] for label in row['Boxes2D:labels']] == [
            each.class_name.split()[0] for each in found
        ]
        corners = np.array(row['Boxes2D:centers']) - np.array(row['Boxes2D:half_sizes'])
        assert corners.tolist() == [[each.segment.box.x, each.segment.box.y] for each in found]
    none = SimpleNamespace(**vars(segmenter.render(images[0])))
    none.instances, none.detections, none.confidence = object(), [], np.zeros((96, 128), np.uint8)
    with RerunRecording(rrd, segmenter, 'none') as recording:
        recording.add(frame_at(0), none)  # type: ignore[arg-type]
    assert [row['Boxes2D:class_ids'] for row in rows(rrd, INSTANCES)] == [[]]


def test_the_distance_is_beside_the_largest_that_is_known(
    tmp_path: Path, run: Any, tiny_checkpoint: Path
) -> None:
    model, rrd = write_known_model(tiny_checkpoint, tmp_path / 'known'), tmp_path / 'seen.rrd'
    with BagWriter(tmp_path / 'in') as bag:
        for index, image in enumerate([known_image(100), BLACK]):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, image))
    assert run(tmp_path / 'in', '-o', tmp_path / 'out', '--rrd', rrd, model=model) == 0
    (known, threshold), (strange, same) = scalars(rrd, DISTANCE)
    assert known < threshold == same < strange


def test_a_large_image_is_scaled_and_stretched_to_its_labels(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerun_recording, 'MAX_SIDE', 64)
    with RerunRecording(tmp_path / 'seen.rrd', segmenter, 'large') as recording:
        for index, size in enumerate([(24, 32), (100, 128), (100, 128)]):
            rendered = segmenter.render(picture(1, *size))
            recording.add(frame_at(stamp_ns(index)), rendered)
    images = rows(tmp_path / 'seen.rrd', IMAGE)
    sizes = [image_of(row).shape for row in images if row.get('EncodedImage:blob')]
    assert sizes == [(24, 32, 3), (50, 64, 3), (50, 64, 3)]
    scales = [row['Transform3D:scale'] for row in images if row.get('Transform3D:scale')]
    assert scales == [[[2.0, 2.0, 1.0]]]
    labels = rows(tmp_path / 'seen.rrd', LABELS)
    assert [labels_of(row).shape for row in labels] == [(24, 32), (100, 128), (100, 128)]


def test_only_recordings_are_replaced(tmp_path: Path, run: Any, capsys: Any) -> None:
    bag, rrd = write_camera_bag(tmp_path / 'drive', frames=1), tmp_path / 'seen.rrd'
    assert run(bag, '-o', tmp_path / 'out', '--rrd', rrd) == 0
    before = rrd.read_bytes()
    assert run(bag, '-o', tmp_path / 'out2', '--rrd', rrd) == 1
    assert 'exists; choose another --rrd, or allow --overwrite' in capsys.readouterr().err
    assert rrd.read_bytes() == before
    assert run(bag, '-o', tmp_path / 'out2', '--rrd', rrd, '--overwrite') == 0
    assert rrd.read_bytes() != before
    rrd.write_text('notes')
    for path, reason in (
        (rrd, 'is no Rerun recording'),
        (tmp_path / 'seen.mcap', 'does not end in .rrd'),
        (tmp_path / 'out3' / 'seen.rrd', 'is in the bag'),
        (bag / 'seen.rrd', 'is in the bag'),
    ):
        assert run(bag, '-o', tmp_path / 'out3', '--rrd', path, '--overwrite') == 1
        assert reason in capsys.readouterr().err
    assert rrd.read_text() == 'notes'
    assert not (tmp_path / 'out3').exists()


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, run: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_camera_bag(tmp_path / 'drive', frames=1)
    monkeypatch.setitem(sys.modules, 'rerun', None)
    assert run(bag, '-o', tmp_path / 'out', '--rrd', tmp_path / 'seen.rrd') == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'pip install -e' in line
    assert '[rerun]' in line
    assert not (tmp_path / 'out').exists()


def test_a_switch_that_disables_rerun_is_an_error(
    tmp_path: Path, run: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_camera_bag(tmp_path / 'drive', frames=1)
    monkeypatch.setenv('RERUN', 'off')
    assert run(bag, '-o', tmp_path / 'out', '--rrd', tmp_path / 'seen.rrd') == 1
    assert 'environment variable RERUN' in capsys.readouterr().err


def test_a_full_disk_ends_a_recording_with_an_error(tmp_path: Path, segmenter: Segmenter) -> None:
    recording = RerunRecording(tmp_path / 'seen.rrd', segmenter, 'full')
    rendered = segmenter.render(picture(1))
    with Path('/dev/full').open('wb', buffering=0) as full:
        recording._file._file = full
        with pytest.raises(BagError, match='No space left'):
            _add_until_written(recording, rendered)
        with pytest.raises(BagError, match='No space left'):
            recording.close()
    assert not (tmp_path / 'seen.rrd').exists()


def _add_until_written(recording: RerunRecording, rendered: Rendered) -> None:
    for index in range(1000):
        recording._flushed_s = 0.0
        recording.add(frame_at(stamp_ns(index)), rendered)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_a_recording_that_is_interrupted_can_be_read(
    tmp_path: Path, tiny_checkpoint: Path, number: signal.Signals
) -> None:
    bag, rrd = write_camera_bag(tmp_path / 'drive', frames=5000), tmp_path / 'seen.rrd'
    command = [sys.executable, '-m', 'segmentation_node.bags.segment_bag', bag]
    command += ['-o', tmp_path / 'out', '--rrd', rrd, '--model', tiny_checkpoint]
    command += ['--device', 'cpu', '--precision', 'fp32', *OPTIONS]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    unfinished = tmp_path / 'seen.new.rrd'
    wait_for_file(unfinished, process, 50_000)
    process.send_signal(number)
    said, _ = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f'in {tmp_path / "out"} and {rrd}' in said
        assert len(rows(rrd, LABELS)) == len(decoded(tmp_path / 'out', MASK))
        assert not unfinished.exists()
    else:
        repair = ['-m', 'rerun_cli', 'rrd', 'optimize', str(unfinished), '-o', str(rrd)]
        home = {**os.environ, 'HOME': str(tmp_path)}
        subprocess.run([sys.executable, *repair], env=home, check=True, capture_output=True)
    labels = rows(rrd, LABELS)
    assert [row['frame'] for row in labels] == list(range(len(labels)))
    assert labels_of(labels[-1]).shape == (24, 32)
