# SPDX-License-Identifier: Apache-2.0
"""The node label_cloud as users run it: a separate process that exchanges messages over DDS."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from ros_process import (
    LATCHED,
    NodeProcess,
    Probe,
    accounts,
    forbidden_by_policy,
    image_message,
    pixels_of,
    stamp_ns,
)
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import String

from segmentation_node.cloud.points import POINT
from segmentation_node.labels import load_scheme

SCHEME = load_scheme('cityscapes8')
HEIGHT, WIDTH = 480, 640
FX, FY, CX, CY = 525.0, 520.0, 319.5, 239.5
RNG = np.random.default_rng(3)
DEPTH = RNG.integers(500, 6000, (HEIGHT, WIDTH)).astype(np.uint16)
DEPTH[:, :100] = 0
LABELS = RNG.integers(0, 8, (HEIGHT, WIDTH)).astype(np.uint8)
CONFIDENCE = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
INSTANCES = RNG.integers(0, 999, (HEIGHT, WIDTH)).astype(np.uint16)
COLORS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
NODE = 'segmentation_node'


def calibration(fx: float = FX, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> CameraInfo:
    message = CameraInfo(height=size_hw[0], width=size_hw[1])
    message.p = [fx, 0.0, CX, 0.0, 0.0, FY, CY, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


class Sensors:
    """Publishers of all inputs of the node, and the clouds that it returns."""

    def __init__(self, probe: Probe, *, others: tuple[str, ...] = ('confidence',)) -> None:
        self.probe = probe
        self.clouds = probe.collect('points', PointCloud2)
        self._publishers = {
            'depth': probe.publisher('depth'),
            'info': probe.publisher('camera_info', CameraInfo),
            'json': probe.publisher(f'{NODE}/label_info_json', String, LATCHED),
            'label_mask': probe.publisher(f'{NODE}/label_mask'),
        }
        for name in others:
            topic = 'image' if name == 'image' else f'{NODE}/{name}'
            self._publishers[name] = probe.publisher(topic)
        self._arrays: dict[str, tuple[Any, str]] = {
            'label_mask': (LABELS, 'mono8'), 'confidence': (CONFIDENCE, 'mono8'),
            'instance_mask': (INSTANCES, '16UC1'), 'image': (COLORS, 'rgb8'),
        }  # fmt: skip
        self._stamp_ns = 1_700_000_000_000_000_000
        self.publish('json', String(data=SCHEME.to_json()))

    def publish(self, name: str, message: Any) -> None:
        """Publish one message."""
        self._publishers[name].publish(message)

    def publish_image(self, name: str, message: Any, stamp: int | None = None) -> None:
        """Publish a message with a stamp; by default that of this moment."""
        stamp = self._stamp_ns if stamp is None else stamp
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        self.publish(name, message)

    def send(self, depth: Any = None, offset_ns: int = 0, **changed: Any) -> int:
        """Publish depth and everything of the camera image; return the stamp of the depth."""
        self._stamp_ns += 100_000_000
        if depth is None:
            depth = image_message(DEPTH, '16UC1', 'depth_frame')
        for name in set(self._publishers) & set(self._arrays):
            pixels, encoding = self._arrays[name]
            message = changed.get(name) or image_message(pixels, encoding, 'color_frame')
            self.publish_image(name, message)
        self.publish_image('depth', depth, self._stamp_ns + offset_ns)
        return self._stamp_ns + offset_ns

    def cloud(self, **changed: Any) -> Any:
        """Publish a frame and return its cloud."""
        stamp = self.send(**changed)
        return self.probe.wait_for(
            'its cloud', lambda: next((c for c in self.clouds if stamp_ns(c) == stamp), None)
        )

    def begin(self) -> None:
        """Send frames until one is answered: then the node has found all publishers."""
        self.send_until('a first cloud', lambda: bool(self.clouds), calibration())
        self.probe.settled()

    def send_until(self, what: str, predicate: Any, info: Any) -> None:
        """Send a calibration and frames, whose order is not certain, until something is true."""

        def is_true() -> bool:
            self.publish('info', info)
            self.send()
            self.probe.executor.spin_once(timeout_sec=0.1)
            return bool(predicate())

        self.probe.wait_for(what, is_true)


def points_of(message: Any) -> Any:
    """Return the points of a message, (N,) or (H, W)."""
    points = np.frombuffer(message.data, POINT)
    return points if message.height == 1 else points.reshape(message.height, message.width)


def expected_xyz() -> Any:
    """Return the points of the formula in float64, (H, W, 3)."""
    z = DEPTH / 1000
    x = z * (np.arange(WIDTH) - CX) / FX
    y = z * (np.arange(HEIGHT)[:, None] - CY) / FY
    return np.stack([x, y, z], axis=-1)


@pytest.fixture(scope='module')
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensors]:
    """A running node with all inputs."""
    log = tmp_path_factory.mktemp('cloud') / 'log.txt'
    with running(log, '-p', 'use_instances:=true', namespace='cloudy') as probe:
        sensors = Sensors(probe, others=('confidence', 'instance_mask'))
        sensors.begin()
        yield sensors
        probe.close()


class running:  # noqa: N801 (a context manager)
    """Node process with a probe that waits until it is active."""

    def __init__(self, log: Path, *arguments: str, namespace: str) -> None:
        self._process = NodeProcess(log, *arguments, namespace=namespace, command='label_cloud')
        self._namespace = namespace

    def __enter__(self) -> Probe:
        self._process.__enter__()
        probe = Probe(self._namespace, 'label_cloud')
        probe.wait_until_active()
        return probe

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)


def test_a_cloud_has_the_header_of_its_depth_and_the_points_of_the_formula(
    sensors: Sensors,
) -> None:
    message = sensors.cloud()
    assert message.header.frame_id == 'depth_frame'
    valid = DEPTH > 0
    assert (message.height, message.width) == (1, np.count_nonzero(valid))
    assert message.row_step == message.width * message.point_step == len(message.data)
    assert message.is_dense
    points = points_of(message)
    found = np.stack([points[axis] for axis in 'xyz'], axis=-1)
    expected = expected_xyz()[valid]
    assert np.all(np.abs(found - expected) <= np.spacing(np.abs(expected).astype(np.float32)))
    assert np.array_equal(points['label'], LABELS[valid])
    assert np.array_equal(points['confidence'], np.float32(CONFIDENCE[valid] / 255))
    assert np.array_equal(points['instance'], INSTANCES[valid])
    colors = SCHEME.palette[LABELS[valid]].astype(np.uint32)
    assert np.array_equal(points['rgb'], colors @ np.array([65536, 256, 1], np.uint32))


def test_the_fields_are_described(sensors: Sensors) -> None:
    fields = {f.name: (f.offset, f.datatype, f.count) for f in sensors.cloud().fields}
    f4, u4 = PointField.FLOAT32, PointField.UINT32
    kinds = {'x': f4, 'y': f4, 'z': f4, 'rgb': f4, 'label': u4, 'confidence': f4, 'instance': u4}
    assert fields == {name: (4 * i, kind, 1) for i, (name, kind) in enumerate(kinds.items())}


def test_the_policy_names_all_that_the_node_does(sensors: Sensors) -> None:
    assert not forbidden_by_policy(sensors.probe)


def test_filters_change_while_it_runs(sensors: Sensors) -> None:
    valid, distance = DEPTH > 0, np.linalg.norm(expected_xyz(), axis=-1)
    human = SCHEME.id_of('human')
    set_ = sensors.probe.set_parameter
    for name, value, default, kept in (
        ('keep_classes', ['human', '1'], [''], np.isin(LABELS, [human, 1])),
        ('drop_classes', ['human'], [''], human != LABELS),
        ('drop_void', True, False, SCHEME.void_id != LABELS),
        ('min_confidence', 0.5, 0.0, CONFIDENCE > 127),
        ('min_range', 2.0, 0.0, distance >= 2),
        ('max_range', 3.0, 0.0, distance <= 3),
    ):
        assert set_(name, value).successful
        assert sensors.cloud().width == np.count_nonzero(valid & kept), name
        assert set_(name, default).successful
    refused = set_('keep_classes', ['humen'])
    assert "label scheme cityscapes8 has no class 'humen'; it has void, flat" in refused.reason
    assert 'max_range' in set_('min_range', 2.0).reason or set_('min_range', 0.0).successful
    assert 'cannot change while the node is configured' in set_('queue_size', 5).reason
    assert sensors.cloud().width == np.count_nonzero(valid)


def test_an_organized_cloud_has_the_size_of_the_depth(sensors: Sensors) -> None:
    assert sensors.probe.set_parameter('organized', True).successful
    message = sensors.cloud()
    assert (message.height, message.width, message.is_dense) == (HEIGHT, WIDTH, False)
    points = points_of(message)
    assert np.array_equal(np.isnan(points['z']), DEPTH == 0)
    assert np.array_equal(points['label'], LABELS)
    assert sensors.probe.set_parameter('organized', False).successful


def test_depth_in_meters_and_of_another_size(sensors: Sensors) -> None:
    small = DEPTH[1::2, 1::2] / np.float32(1000)
    points = points_of(sensors.cloud(depth=image_message(small, '32FC1')))
    assert np.array_equal(points['z'], small[small > 0])
    assert np.array_equal(points['label'], LABELS[1::2, 1::2][small > 0])
    u = np.nonzero(small)[1]
    np.testing.assert_allclose(
        points['x'], (u - (CX - 0.5) / 2) * small[small > 0] / (FX / 2), rtol=1e-5, atol=1e-6
    )


def test_the_nearest_depth_matches(sensors: Sensors) -> None:
    assert sensors.cloud(offset_ns=5_000_000)
    before = sensors.probe.settled()
    sensors.send(offset_ns=50_000_000)  # beyond the tolerance
    sensors.cloud()
    after = sensors.probe.settled()
    assert after['published'] == before['published'] + 1
    assert after['superseded'] == before['superseded'] + 1


def test_every_depth_image_and_every_mask_is_counted(sensors: Sensors) -> None:
    before = sensors.probe.settled()
    masks_before = mask_accounts(sensors.probe)
    count = 8  # publishers keep 10
    for _ in range(count):
        sensors.send()

    def all_received() -> bool:
        depths, masks = accounts(sensors.probe.diagnostics[-1]), mask_accounts(sensors.probe)
        return (
            depths['received'] == before['received'] + count
            and masks['received'] == masks_before['received'] + count
        )

    sensors.probe.wait_for('the fate of all', all_received)
    after = sensors.probe.settled()
    assert after['received'] == sum(after.values()) - after['received']
    masks = mask_accounts(sensors.probe)
    assert masks['received'] == sum(masks.values()) - masks['received']
    assert masks['received'] == masks_before['received'] + count
    done = {fate: after[fate] - before[fate] for fate in ('published', 'superseded')}
    assert sum(done.values()) == count
    assert done['published']


def mask_accounts(probe: Probe) -> dict[str, int]:
    return accounts(
        {
            key.removeprefix('mask_'): value
            for key, value in probe.diagnostics[-1].items()
            if key.startswith('mask_')
        }
    )


def cut(message: Any) -> Any:
    message.data = message.data[:-1]
    return message


def test_hostile_depth_is_malformed_and_counted(sensors: Sensors) -> None:
    before = sensors.probe.settled()
    hostile = [
        cut(image_message(DEPTH, '16UC1')),
        image_message(COLORS, 'rgb8'),
        image_message(DEPTH, '64FC1'),
        image_message(np.zeros((360, 640), np.uint16), '16UC1'),  # another view
        image_message(np.zeros((1, 1), np.uint16), '\x1b[2J' * 100),
    ]
    huge = image_message(DEPTH, '16UC1')
    huge.height = huge.width = 2**32 - 1
    empty = image_message(DEPTH, '16UC1')
    empty.height = 0
    for message in [*hostile, huge, empty]:
        sensors.send(depth=message)
    sensors.probe.wait_for_malformed(before['malformed'] + 7)
    sensors.send(label_mask=cut(image_message(LABELS, 'mono8')))
    sensors.send(confidence=image_message(COLORS, 'rgb8'))
    sensors.cloud()
    after = sensors.probe.settled()
    assert after['malformed'] == before['malformed'] + 7
    assert not after['failed'] - before['failed']
    assert after['received'] == sum(after.values()) - after['received']


@pytest.mark.parametrize('fx', [math.nan, 0.0])
def test_without_a_valid_calibration_frames_fail(sensors: Sensors, fx: float) -> None:
    failed = sensors.probe.report()['failed']
    report = sensors.probe.diagnostics

    def has_failed() -> bool:
        return report[-1]['failed'] > failed and 'fx, fy, cx, cy' in report[-1]['last_error']

    sensors.send_until('a failure', has_failed, calibration(fx))
    sensors.clouds.clear()
    sensors.begin()
    sensors.cloud()


def test_labels_that_are_not_described_are_reported(sensors: Sensors) -> None:
    for text in ('', '[' * 10**5, '{}', SCHEME.to_json().replace('"id": 1', '"id": 1000')):
        sensors.publish('json', String(data=text))
    sensors.probe.wait_for(
        'a report', lambda: 'label info rejected' in sensors.probe.diagnostics[-1]['last_error']
    )
    assert sensors.cloud()
    sensors.publish('json', String(data=SCHEME.to_json()))


def test_nobody_listening_means_no_subscription(tmp_path: Path) -> None:
    with running(tmp_path / 'log.txt', namespace='alone') as probe:
        mask = '/alone/segmentation_node/label_mask'
        probe.wait_for('no subscription', lambda: not probe.node.count_subscribers(mask))
        said = 'waiting for a subscriber of the points'
        probe.wait_for('its status', lambda: probe.diagnostics[-1]['message'] == said)
        sensors = Sensors(probe)
        sensors.begin()
        assert probe.transition(Transition.TRANSITION_DEACTIVATE)
        counts = probe.settled()
        assert counts['received'] == sum(counts.values()) - counts['received']
        assert probe.transition(Transition.TRANSITION_CLEANUP)
        assert probe.transition(Transition.TRANSITION_CONFIGURE)
        assert probe.transition(Transition.TRANSITION_ACTIVATE)
        probe.wait_for('a subscription', lambda: probe.node.count_subscribers(mask))
        sensors.clouds.clear()
        sensors.begin()
        probe.close()


def test_a_registered_cloud_in_the_colors_of_the_image(tmp_path: Path) -> None:
    arguments = ('-p', 'source:=cloud', '-p', 'color:=image', '-p', 'use_confidence:=false')
    with running(tmp_path / 'log.txt', *arguments, namespace='lidar') as probe:
        clouds = probe.collect('points', PointCloud2)
        publishers = [
            probe.publisher('cloud', PointCloud2), probe.publisher(f'{NODE}/label_mask'),
            probe.publisher('image'),
        ]  # fmt: skip
        xyz = expected_xyz().astype(np.float32)
        xyz[DEPTH == 0] = np.nan
        cloud = PointCloud2(
            height=HEIGHT, width=WIDTH, point_step=12, row_step=12 * WIDTH,
            fields=[
                PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
                for index, name in enumerate('xyz')
            ],
        )  # fmt: skip
        cloud.data.frombytes(xyz.tobytes())
        messages = [
            cloud,
            image_message(LABELS, 'mono8'),
            image_message(COLORS[..., ::-1], 'bgr8'),
        ]

        def answered() -> bool:
            for publisher, message in zip(publishers, messages, strict=True):
                message.header.stamp.nanosec += 1
                publisher.publish(message)
            probe.executor.spin_once(timeout_sec=0.1)
            return bool(clouds)

        probe.wait_for('a cloud', answered)
        points, valid = points_of(clouds[0]), DEPTH > 0
        assert np.array_equal(points['y'], xyz[..., 1][valid])
        assert np.all(np.isnan(points['confidence']))
        packed = COLORS[valid].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        assert np.array_equal(points['rgb'], packed)
        counts = probe.settled()
        assert counts['received'] == sum(counts.values()) - counts['received']
        probe.close()


def test_both_nodes_work_together_as_they_are(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The default topics of label_cloud are those of a segmentation node beside it."""
    model = ('-p', f'model:={tiny_checkpoint}')
    with (
        NodeProcess(tmp_path / 'masks.txt', *model, namespace='robot'),
        running(tmp_path / 'log.txt', namespace='robot') as probe,
    ):
        clouds = probe.collect('points', PointCloud2)
        masks: list[Any] = []
        mask_topic = '/robot/segmentation_node/label_mask'
        probe.node.create_subscription(Image, mask_topic, masks.append, 50)
        image = image_message(COLORS[:48, :64], 'rgb8', 'color_frame')
        depth = image_message(np.full((48, 64), 1500, np.uint16), '16UC1', 'depth_frame')
        publishers = [probe.publisher(topic) for topic in ('image', 'depth')]
        info = probe.publisher('camera_info', CameraInfo)

        def answered() -> bool:
            info.publish(calibration(size_hw=(48, 64)))
            for publisher, message in zip(publishers, (image, depth), strict=True):
                message.header.stamp.nanosec += 1
                publisher.publish(message)
            probe.executor.spin_once(timeout_sec=0.2)
            return bool(clouds)

        probe.wait_for('a cloud', answered)
        stamp = stamp_ns(clouds[0])
        mask = probe.wait_for(
            'its mask', lambda: next((m for m in masks if stamp_ns(m) == stamp), None)
        )
        points = points_of(clouds[0])
        assert clouds[0].header.frame_id == 'depth_frame'
        assert np.array_equal(points['label'], pixels_of(mask).ravel())
        assert np.all((points['confidence'] >= 0) & (points['confidence'] <= 1))
        probe.close()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('-p', 'source:=radar'), "source is 'radar'; choose one of depth, cloud"),
        (('-p', 'use_confidence:=false', '-p', 'min_confidence:=0.5'), 'use_confidence is false'),
        (('-p', 'min_range:=5', '-p', 'max_range:=1'), 'increase max_range'),
    ],
)
def test_a_start_that_cannot_succeed_says_why(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    log = tmp_path / 'log.txt'
    with NodeProcess(log, *arguments, namespace='refused', command='label_cloud') as node:
        assert node.ended() == 1
    (line,) = [line for line in log.read_text().splitlines() if line.startswith('label_cloud:')]
    assert said in line
