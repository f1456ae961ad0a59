# SPDX-License-Identifier: Apache-2.0
"""Instances as users get them: from a node with a panoptic model, over real DDS."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from panoptic_models import PANOPTIC, picture, write_hub_model  # isort: skip
from ros_process import Camera, NodeProcess, Probe, image_message, pixels_of, stamp_ns
from sensor_msgs.msg import CompressedImage

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.rendering import OUTLINE_RGB
from segmentation_node.instances import Thresholds
from segmentation_node.pipeline.tracking import InstanceTracker
from segmentation_node.segmenter import Segmenter

IMAGE_RGB = picture(2, 128, 160)
SCORE, OVERLAP = 0.4, 0.1


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_model(tmp_path_factory.mktemp('hub') / PANOPTIC)


@pytest.fixture(scope='module')
def probe(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    log = tmp_path_factory.mktemp('node') / 'log.txt'
    settings = {
        'model': model, 'precision': 'fp32', 'runtime': 'torch', 'min_instance_score': SCORE,
        'min_instance_overlap': OVERLAP,
    }  # fmt: skip
    arguments = [part for name, value in settings.items() for part in ('-p', f'{name}:={value}')]
    with NodeProcess(log, *arguments, namespace='instances'):
        found = Probe('instances')
        found.wait_until_active()
        yield found
        found.close()


@pytest.fixture(scope='module')
def camera(probe: Probe) -> Camera:
    return probe.connect()


def expected(model: Path, thresholds: Thresholds) -> Any:
    segmenter = Segmenter(str(model), runtime='torch', precision='fp32', thresholds=thresholds)
    return segmenter.render(IMAGE_RGB, outlines=True)


def instance_ids(message: Any) -> Any:
    return np.frombuffer(message.data, np.uint16).reshape(message.height, message.width)


def test_an_instance_mask_has_the_instances_of_the_segmenter(camera: Camera, model: Path) -> None:
    probe = camera.probe
    masks = probe.collect('instance_mask')
    compressed = probe.collect('instance_mask/compressed', CompressedImage)
    overlays = probe.collect('overlay')
    for _ in range(2):  # subscriptions may take a frame to be known
        labels = camera.segment(image_message(IMAGE_RGB, frame_id='front'))
    stamp = stamp_ns(labels)

    def of_frame(messages: list[Any]) -> Any:
        return next((m for m in messages if stamp_ns(m) == stamp), None)

    mask = probe.wait_for('its instances', lambda: of_frame(masks))
    assert (mask.encoding, mask.header) == ('16UC1', labels.header)
    rendered = expected(model, Thresholds(SCORE, OVERLAP))
    ids = instance_ids(mask)
    np.testing.assert_array_equal(ids, rendered.instance_mask)
    np.testing.assert_array_equal(pixels_of(labels), rendered.label_mask)
    assert len(rendered.detections) > 1
    for segment, _ in rendered.detections:
        assert (pixels_of(labels)[ids == segment.id] == segment.class_id).all()
    packed = probe.wait_for('its compressed instances', lambda: of_frame(compressed))
    assert packed.format.startswith('16UC1; png')
    png = cv2.imdecode(np.frombuffer(packed.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(png, ids)
    plain = pixels_of(probe.wait_for('its overlay', lambda: of_frame(overlays)))
    assert probe.set_parameter('overlay_outlines', True).successful
    stamp = stamp_ns(camera.segment(image_message(IMAGE_RGB)))
    outlined = pixels_of(probe.wait_for('an overlay', lambda: of_frame(overlays)))
    edges = rendered.instances.outlines
    assert (outlined[edges] == OUTLINE_RGB).all()
    np.testing.assert_array_equal(outlined[~edges], plain[~edges])


def test_thresholds_take_effect_while_the_node_is_running(camera: Camera, model: Path) -> None:
    probe = camera.probe
    masks = probe.collect('instance_mask')
    strict = Thresholds(0.9999, 0.5)
    names = ('min_instance_score', 'min_instance_overlap')
    for values in (strict, Thresholds(SCORE, OVERLAP)):
        for name, value in zip(names, (values.score, values.overlap), strict=True):
            assert probe.set_parameter(name, value).successful
        stamp = stamp_ns(camera.segment(image_message(IMAGE_RGB)))
        mask = probe.wait_for(
            'its instances',
            lambda: next((m for m in masks if stamp_ns(m) == stamp), None),  # noqa: B023
        )
        np.testing.assert_array_equal(instance_ids(mask), expected(model, values).instance_mask)
    refused = probe.set_parameter('min_instance_score', 1.5)
    assert not refused.successful


def test_ids_stay_with_their_objects_until_the_model_is_another(
    camera: Camera, model: Path, tmp_path: Path
) -> None:
    probe = camera.probe
    masks = probe.collect('instance_mask')

    def ids_of(image_rgb: UInt8Array) -> tuple[int, Any]:
        stamp = stamp_ns(camera.segment(image_message(image_rgb)))
        mask = probe.wait_for(
            'its instances', lambda: next((m for m in masks if stamp_ns(m) == stamp), None)
        )
        return stamp, instance_ids(mask)

    ids_of(IMAGE_RGB)
    assert probe.set_parameter('track_instances', True).successful
    thresholds = Thresholds(SCORE, OVERLAP)
    segmenter = Segmenter(str(model), runtime='torch', precision='fp32', thresholds=thresholds)
    tracker, changed = InstanceTracker(), False
    kept: set[int] = set()
    for step in range(4):
        image_rgb = np.roll(IMAGE_RGB, 6 * step, axis=1)
        stamp, ids = ids_of(image_rgb)
        found = segmenter.segment([image_rgb]).instances_of(0)
        assert found is not None
        np.testing.assert_array_equal(ids, tracker.track(found, stamp).ids)
        changed |= bool((ids != found.ids).any())
        present = set(np.unique(ids).tolist()) - {0}
        kept = kept & present if step else present
    assert changed
    assert kept
    copy = shutil.copytree(model, tmp_path / PANOPTIC)
    assert probe.set_parameter('model', str(copy)).successful
    _, after = ids_of(IMAGE_RGB)
    assert after[after > 0].min() > max(present)
    assert probe.set_parameter('track_instances', False).successful
    _, untracked = ids_of(IMAGE_RGB)
    np.testing.assert_array_equal(untracked, expected(model, thresholds).instance_mask)


def test_a_model_without_instances_publishes_none_and_says_so(
    camera: Camera, tiny_checkpoint: Path
) -> None:
    probe = camera.probe
    masks = probe.collect('instance_mask')
    assert probe.next_diagnostics()['task'] == 'panoptic'
    assert probe.set_parameter('model', str(tiny_checkpoint)).successful
    says = 'subscribed, but model'
    report = probe.wait_for('the warning', lambda: _warning(probe, says))
    assert 'choose a panoptic model' in report['message']
    assert report['task'] == 'semantic'
    masks.clear()
    before = probe.settled()
    camera.segment(image_message(IMAGE_RGB))
    after = probe.settled()
    assert after['published'] == before['published'] + 1
    assert after['failed'] == before['failed']
    assert not masks


def _warning(probe: Probe, says: str) -> dict[str, str] | None:
    report = probe.next_diagnostics()
    return report if says in report['message'] else None
