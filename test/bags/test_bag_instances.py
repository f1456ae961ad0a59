# SPDX-License-Identifier: Apache-2.0
"""Instances in bags and folders of results."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from panoptic_models import PANOPTIC, picture, write_hub_model
from test_bag_segment_bag import decoded

from segmentation_node.bags import images_to_bag, messages, segment_bag
from segmentation_node.fleet import label_fleet
from segmentation_node.folders import segment_images
from segmentation_node.images.files import encode_png
from segmentation_node.instances import Thresholds
from segmentation_node.pipeline.tracking import InstanceTracker
from segmentation_node.segmenter import Segmenter

IMAGES = [picture(seed, 96, 128) for seed in (1, 2)]
OPTIONS = ('--min-instance-overlap', '0.1', '--runtime', 'torch', '--precision', 'fp32', '--quiet')
OUTPUTS = 'label_mask,instance_mask,detections,overlay'


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_model(tmp_path_factory.mktemp('hub') / PANOPTIC)


@pytest.fixture(scope='module')
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('frames')
    for index, image in enumerate(IMAGES):
        (folder / f'{index}.png').write_bytes(encode_png(image))
    return folder


@pytest.fixture(scope='module')
def rendered(model: Path) -> list[Any]:
    segmenter = Segmenter(
        str(model), runtime='torch', precision='fp32', thresholds=Thresholds(overlap=0.1)
    )
    found = [segmenter.render(image, outlines=True) for image in IMAGES]
    assert all(each.detections for each in found)
    return found


def test_a_bag_gets_instance_masks_and_detections(
    model: Path, frames: Path, rendered: list[Any], tmp_path: Path
) -> None:
    bag, out = tmp_path / 'in.mcap', tmp_path / 'out.mcap'
    assert images_to_bag.main(['--images', str(frames), '-o', str(bag), '--quiet']) == 0
    arguments = ['-o', str(out), '--outputs', OUTPUTS, '--model', str(model), *OPTIONS]
    assert segment_bag.main([str(bag), *arguments]) == 0
    masks = decoded(out, '/segmentation_node/instance_mask')
    arrays = decoded(out, '/segmentation_node/detections')
    labels = decoded(out, '/segmentation_node/label_mask')
    for (_, mask), (_, array), (_, label), expected in zip(
        masks, arrays, labels, rendered, strict=True
    ):
        assert (mask.encoding, mask.is_bigendian, mask.step) == ('16UC1', 0, 256)
        ids = mask.data.view('<u2').reshape(96, 128)
        np.testing.assert_array_equal(ids, expected.instance_mask)
        headers = [str(message.header) for message in (mask, label, array)]
        assert headers == [headers[0]] * 3
        assert len(array.detections) == len(expected.detections)
        for found, (segment, name) in zip(array.detections, expected.detections, strict=True):
            assert found.id == str(segment.id)
            [result] = found.results
            assert result.hypothesis.class_id == name
            assert result.hypothesis.score == pytest.approx(segment.score)
            box, center = segment.box, found.bbox.center.position
            assert (found.bbox.size_x, found.bbox.size_y) == (box.width, box.height)
            assert (center.x, center.y) == (box.x + box.width / 2, box.y + box.height / 2)


def test_tracked_ids_are_those_of_the_masks_and_of_the_detections(
    model: Path, tmp_path: Path
) -> None:
    images = [np.roll(IMAGES[0], 6 * step, axis=1) for step in range(4)]
    frames, bag, out = tmp_path / 'frames', tmp_path / 'in.mcap', tmp_path / 'out.mcap'
    frames.mkdir()
    for index, image in enumerate(images):
        (frames / f'{index}.png').write_bytes(encode_png(image))
    assert images_to_bag.main(['--images', str(frames), '-o', str(bag), '--quiet']) == 0
    arguments = ['-o', str(out), '--outputs', OUTPUTS, '--model', str(model), *OPTIONS]
    assert segment_bag.main([str(bag), *arguments, '--track']) == 0
    segmenter = Segmenter(
        str(model), runtime='torch', precision='fp32', thresholds=Thresholds(overlap=0.1)
    )
    tracker, changed = InstanceTracker(), False
    masks = decoded(out, '/segmentation_node/instance_mask')
    arrays = decoded(out, '/segmentation_node/detections')
    for image, (_, mask), (_, array) in zip(images, masks, arrays, strict=True):
        found = segmenter.segment([image]).instances_of(0)
        assert found is not None
        expected = tracker.track(found, messages.stamp_ns_of(mask))
        ids = mask.data.view('<u2').reshape(expected.ids.shape)
        np.testing.assert_array_equal(ids, expected.ids)
        assert [d.id for d in array.detections] == [str(s.id) for s in expected.segments]
        changed |= bool((ids != found.ids).any())
    assert changed


def test_tracking_without_instances_is_an_error(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = tmp_path / 'in.mcap', tmp_path / 'out.mcap'
    assert images_to_bag.main(['--images', str(frames), '-o', str(bag), '--quiet']) == 0
    assert segment_bag.main([str(bag), '-o', str(out), '--track']) == 1
    assert 'add instance_mask or detections, or leave out --track' in capsys.readouterr().err
    assert not out.exists()
    # A fleet segments parts of a bag in any order.
    with pytest.raises(SystemExit):
        label_fleet.main([str(bag), '--output', str(tmp_path / 'fleet'), '--track'])
    assert 'unrecognized arguments: --track' in capsys.readouterr().err


def test_a_folder_gets_instance_masks_and_detections(
    model: Path, frames: Path, rendered: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    arguments = [str(frames), '-o', str(out), '--outputs', OUTPUTS, '--model', str(model)]
    assert segment_images.main([*arguments, *OPTIONS, '--outlines']) == 0
    for index, expected in enumerate(rendered):
        mask = cv2.imread(str(out / 'instance_mask' / f'{index}.png'), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.dtype == np.uint16
        np.testing.assert_array_equal(mask, expected.instance_mask)
        rows = json.loads((out / 'detections' / f'{index}.json').read_text(encoding='utf-8'))
        assert [row['id'] for row in rows] == [d.segment.id for d in expected.detections]
        assert [row['class'] for row in rows] == [d.class_name for d in expected.detections]
        first = expected.detections[0].segment.box
        assert rows[0]['box'] == first._asdict()


@pytest.mark.parametrize('name', ['instance_mask', 'detections'])
def test_a_model_without_instances_is_an_error_before_anything_is_written(
    name: str, tiny_checkpoint: Path, frames: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = [str(frames), '-o', str(tmp_path / 'out'), '--outputs', f'label_mask,{name}']
    assert segment_images.main([*arguments, '--model', str(tiny_checkpoint)]) == 1
    assert f'output {name} requires instances' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_16_bits_are_little_endian_in_bags() -> None:
    pixels = np.array([[1, 258]], '>u2')
    message = messages.image(pixels, '16UC1', messages.header(0, ''))
    assert message.data.tolist() == [1, 0, 2, 1]
    assert (message.step, message.width) == (4, 2)
