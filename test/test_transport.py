# SPDX-License-Identifier: Apache-2.0
"""Every frame that a camera sent has a fate, with ROS 2's default transports."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_process import NodeProcess, Probe, image_message
from sensor_msgs.msg import CompressedImage

from segmentation_node.ros.losses import RECENT_S, Losses
from segmentation_node.transport import FASTDDS, FASTRTPS, reliable_camera

RELIABLE, BEST_EFFORT = QoSReliabilityPolicy.RELIABLE, QoSReliabilityPolicy.BEST_EFFORT
NAMESPACE = 'lossy'
TOPIC = f'/{NAMESPACE}/image'
WARN = '1'
RATE_HZ = 10.0
#: Fits into one packet, so that it arrives whatever the reliability: marks where counting begins
#: and ends, for a loss is counted when a later frame arrives.
SMALL = image_message(np.zeros((32, 32, 3), np.uint8))


class Sender:
    """A camera of some reliability whose frames the node accounts for."""

    def __init__(self, probe: Probe, reliability: QoSReliabilityPolicy, topic: str = TOPIC,
                 small: Any = SMALL) -> None:  # fmt: skip
        self._probe, self._small = probe, small
        qos = QoSProfile(depth=10, reliability=reliability)
        self._publisher = probe.publisher(topic, type(small), qos)
        before = sent(probe.next_diagnostics())
        # Discovery is over on this side alone: what is sent too early never arrives.
        while sent(probe.diagnostics[-1]) == before:
            self._publisher.publish(small)
            probe.next_diagnostics()

    def send(self, width: int, height: int, count: int) -> dict[str, int]:
        """Send frames of one size; returns what became of them."""
        frame = image_message(np.zeros((height, width, 3), np.uint8))
        before = self._probe.next_diagnostics()
        for _ in range(count):
            self._publisher.publish(frame)
            self._probe.executor.spin_once(timeout_sec=0)
            time.sleep(1 / RATE_HZ)
        self._publisher.publish(self._small)
        expected = sent(before) + count + 1
        self._probe.wait_for(
            f'{expected} frames to be accounted for',
            lambda: sent(self._probe.diagnostics[-1]) >= expected,
        )
        after = self._probe.next_diagnostics()
        assert sent(after) == expected
        fates = {name: int(after[name]) - int(before[name]) for name in ('received', 'lost')}
        return {**fates, 'received': fates['received'] - 1}

    def close(self) -> None:
        """Unplug the camera."""
        self._probe.node.destroy_publisher(self._publisher)


def sent(diagnostics: dict[str, str]) -> int:
    """Frames that the node knows to have been sent."""
    return sum(int(diagnostics[name]) for name in ('received', 'in_flight', 'lost'))


@pytest.fixture(scope='module')
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('transport') / 'log.txt'


@pytest.fixture(scope='module')
def probe(tiny_checkpoint: Path, log: Path) -> Iterator[Probe]:
    """Beside a running node with a small model."""
    with NodeProcess(log, '-p', f'model:={tiny_checkpoint}', namespace=NAMESPACE):
        probe = Probe(NAMESPACE)
        probe.wait_until_active()
        yield probe
        probe.close()


SIZES = ((640, 480), (1024, 512), (2048, 1024))


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_reliable_camera_loses_nothing(probe: Probe, width: int, height: int) -> None:
    camera = Sender(probe, RELIABLE)
    assert camera.send(width, height, 12) == {'received': 12, 'lost': 0}
    camera.close()


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_losses_of_a_best_effort_camera_are_counted(probe: Probe, width: int, height: int) -> None:
    camera = Sender(probe, BEST_EFFORT)
    fates = camera.send(width, height, 12)
    print(fates)
    assert fates['received'] + fates['lost'] == 12
    camera.close()
