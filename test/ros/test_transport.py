# SPDX-License-Identifier: Apache-2.0
"""All frames of a camera are accounted for, with the default transports of ROS 2."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_process import NodeProcess, Probe, image_message, isolated_environment

from segmentation_node.benchmark.image_publisher import times_of
from segmentation_node.images.files import encode_png
from segmentation_node.processes import Child
from segmentation_node.ros.lost_frames import RECENT_S, Losses
from segmentation_node.ros.transport import FASTDDS, FASTRTPS, reliable_camera_commands

RELIABLE, BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
NAMESPACE = 'lossy'
TOPIC = f'/{NAMESPACE}/image'
WARN = '1'
RATE_HZ = 10.0
COUNT = 8
#: Fits into one packet, so that it arrives whatever the reliability: marks where counting begins
#: and ends, for a loss is counted when a later frame arrives.
SMALL = image_message(np.zeros((32, 32, 3), np.uint8))


class Sender:
    """Camera with a given reliability whose frames the node accounts for; removed at the end."""

    def __init__(self, probe: Probe, reliability: QoSReliabilityPolicy, topic: str = TOPIC,
                 small: Any = SMALL) -> None:  # fmt: skip
        self._probe, self._small = probe, small
        qos = QoSProfile(depth=10, reliability=reliability)
        self._publisher = probe.publisher(topic, type(small), qos)
        self.join()

    def __enter__(self) -> 'Sender':
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.node.destroy_publisher(self._publisher)

    def join(self) -> None:
        """Send small frames until one arrives: only then has the node discovered this camera."""
        before = sent(self._probe.report())

        def arrived() -> bool:
            self._publisher.publish(self._small)
            return sent(self._probe.report()) > before

        self._probe.wait_for('a frame of this camera', arrived)

    def send(self, frame: Any, count: int = COUNT) -> dict[str, int]:
        """Send a frame several times; returns the counts of received and lost frames."""
        before = self._probe.diagnostics[-1]
        for _ in range(count):
            self._publisher.publish(frame)
            time.sleep(1 / RATE_HZ)
        self._publisher.publish(self._small)
        expected = sent(before) + count + 1
        self._probe.wait_for(
            f'{expected} frames to be accounted for',
            lambda: sent(self._probe.diagnostics[-1]) >= expected,
        )
        after = self._probe.report()
        assert sent(after) == expected
        fates = {name: int(after[name]) - int(before[name]) for name in ('received', 'lost')}
        return {**fates, 'received': fates['received'] - 1}


def frame(width: int, height: int) -> Any:
    return image_message(np.zeros((height, width, 3), np.uint8))


def wait_for_subscription(probe: Probe, reliability: QoSReliabilityPolicy) -> None:
    """Wait until the node's subscription is the only one and has a reliability."""

    def followed() -> bool:
        found = probe.node.get_subscriptions_info_by_topic(f'{probe.namespace}/image')
        return [s.qos_profile.reliability for s in found] == [reliability]

    probe.wait_for(f'a subscription that is {reliability.name}', followed)


def sent(diagnostics: dict[str, str]) -> int:
    """Return the number of frames that were sent, as far as the node knows."""
    return sum(int(diagnostics[name]) for name in ('received', 'in_flight', 'lost'))


@pytest.fixture(scope='module')
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('transport') / 'log.txt'


@pytest.fixture(scope='module')
def probe(tiny_checkpoint: Path, log: Path) -> Iterator[Probe]:
    """Probe of a running node with a small model."""
    with NodeProcess(log, '-p', f'model:={tiny_checkpoint}', namespace=NAMESPACE):
        probe = Probe(NAMESPACE)
        probe.wait_until_active()
        yield probe
        probe.close()


SIZES = ((640, 480), (1024, 512), (2048, 1024))


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_a_reliable_camera_loses_nothing(probe: Probe, width: int, height: int) -> None:
    with Sender(probe, RELIABLE) as camera:
        assert camera.send(frame(width, height)) == {'received': COUNT, 'lost': 0}


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_losses_of_a_best_effort_camera_are_counted(probe: Probe, width: int, height: int) -> None:
    with Sender(probe, BEST_EFFORT) as camera:
        fates = camera.send(frame(width, height))
    assert fates['received'] + fates['lost'] == COUNT


def test_the_remedy_is_told_where_frames_are_lost(probe: Probe, log: Path) -> None:
    def told() -> bool:
        camera.send(frame(2048, 1024))
        report = probe.diagnostics[-1]
        text = f'were lost in transport, most of them on {TOPIC}; see remedy'
        return report['level'] == WARN and text in report['message']

    with Sender(probe, BEST_EFFORT) as camera:
        probe.wait_for('a warning of lost frames', told)  # the first ones may arrive by luck
    report = probe.diagnostics[-1]
    export, run = report['remedy'].splitlines()
    assert Path(export.partition('=')[2]).is_file()
    assert run.endswith(f'-p qos_overrides.{TOPIC}.publisher.reliability:=reliable')
    # Of all tests with this node: losses go on, and are said when they begin.
    assert log.read_text().count('were lost in transport') == 1


def test_a_camera_that_restarts_is_followed(probe: Probe) -> None:
    for reliability in (RELIABLE, BEST_EFFORT, RELIABLE):
        with Sender(probe, reliability) as camera:
            wait_for_subscription(probe, reliability)
            fates = camera.send(frame(640, 480), 5)
        assert fates['received'] + fates['lost'] == 5
        assert fates['lost'] == 0 or reliability == BEST_EFFORT
    wait_for_subscription(probe, RELIABLE)


def test_cameras_of_both_kinds_on_one_topic_are_received(probe: Probe) -> None:
    with Sender(probe, RELIABLE) as reliable:
        wait_for_subscription(probe, RELIABLE)
        with Sender(probe, BEST_EFFORT) as best_effort:
            wait_for_subscription(probe, BEST_EFFORT)
            for camera in (reliable, best_effort):
                fates = camera.send(frame(320, 240), 5)
                assert fates['received'] + fates['lost'] == 5
        wait_for_subscription(probe, RELIABLE)
        reliable.join()
        assert reliable.send(frame(1024, 512), 5) == {'received': 5, 'lost': 0}


def test_what_the_user_sets_rules(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rule = 'qos_overrides./ruled/image.subscription.reliability:=best_effort'
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', rule)
    with NodeProcess(tmp_path / 'log', *arguments, namespace='ruled'):
        probe = Probe('ruled')
        probe.wait_until_active()
        with Sender(probe, RELIABLE, '/ruled/image') as camera:
            wait_for_subscription(probe, BEST_EFFORT)

            def told() -> bool:
                camera.send(frame(2048, 1024))
                return f'start the node without {rule}' in probe.diagnostics[-1]['remedy']

            probe.wait_for('the remedy for lost frames', told)
        probe.close()


def test_overload_slows_no_camera_and_ages_no_mask(tiny_checkpoint: Path, tmp_path: Path) -> None:
    image = tmp_path / 'image.png'
    image.write_bytes(encode_png(np.zeros((512, 1024, 3), np.uint8)))
    rate_hz, seconds = 30.0, 5.0
    # Scaled up, the images keep the network busy for far longer than the camera takes.
    slow = ('-p', 'runtime:=torch', '-p', 'input_size:=[1024, 2048]')
    with NodeProcess(
        tmp_path / 'log', '-p', f'model:={tiny_checkpoint}', *slow, namespace='overload'
    ):
        probe = Probe('overload')
        probe.wait_until_active()
        masks: list[tuple[float, float]] = []

        def on_mask(message: Any) -> None:
            now_s, sent_s = time.monotonic(), times_of(message.header.frame_id)[1] / 1e9
            masks.append((now_s, now_s - sent_s))

        probe.node.create_subscription(type(SMALL), f'{probe.target}/label_mask', on_mask, 10)
        command = [
            sys.executable, '-m', 'segmentation_node.benchmark.image_publisher', str(image),
            '--topic', '/overload/image', '--rate-hz', str(rate_hz),
        ]  # fmt: skip
        with Child(
            'camera', command, tmp_path / 'camera', isolated_environment(), reports=True
        ) as camera:
            probe.wait_for('masks', lambda: len(masks) > 1)
            masks.clear()
            sent_before, since_s = camera.report['sent'], time.monotonic()
            probe.wait_for(
                'more masks',
                lambda: time.monotonic() - since_s > seconds and len(masks) > 5,
            )
            passed_s = time.monotonic() - since_s
            fresh = camera.report['sent'] - sent_before
        counts = probe.settled()
        probe.close()
    assert counts['received'] > 5 * counts['published'], 'this was no overload'
    # Reports are a quarter of a second old at most.
    assert fresh > 0.7 * rate_hz * passed_s, 'the camera was slowed down'
    ages = [age_s for _, age_s in masks]
    third = len(ages) // 3
    # In a queue they would grow with almost all the time that passes.
    assert np.median(ages[-third:]) - np.median(ages[:third]) < passed_s / 3


def test_a_profile_is_named_by_the_variable_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for distribution, variable in (('humble', FASTRTPS), ('jazzy', FASTRTPS), ('kilted', FASTDDS)):
        monkeypatch.setenv('ROS_DISTRO', distribution)
        assert reliable_camera_commands('/image').startswith(f'export {variable}=/')


def test_losses_are_of_the_recent_past() -> None:
    losses = Losses()
    assert not losses.recent(0.0, 0).excessive
    losses.add('/front', 1)
    assert losses.recent(1.0, 1000).excessive is False
    losses.add('/rear', 30)
    recent = losses.recent(2.0, 2000)
    assert (recent.lost, recent.sent, recent.topic) == (31, 2031, '/rear')
    assert recent.excessive
    for second in range(3, 3 + int(RECENT_S)):
        last = losses.recent(float(second), 2000 + second)
    assert (last.lost, last.topic) == (0, '')
