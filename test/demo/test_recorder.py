# SPDX-License-Identifier: Apache-2.0
"""Tests of the recorder's argument checks; the tests of the demo cover the recording itself."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ros_process import Probe, isolated_environment  # isort: skip

from bag_making import wait_until
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import String

from segmentation_node.bags.reader import open_bag
from segmentation_node.demo.recorder import main
from segmentation_node.errors import BagError


def test_a_type_that_is_not_known_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar = ['--topic', '/radar', 'radar_msgs/msg/RadarScan', 'reliable']
    assert main([str(tmp_path / 'bag'), *radar]) == 1
    said = capsys.readouterr().err
    assert 'topic /radar has type radar_msgs/msg/RadarScan, which is not one of' in said


def test_a_qos_that_is_not_known_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / 'bag'), '--topic', '/image', 'sensor_msgs/msg/Image', 'slow'])
    assert ended.value.code == 2
    assert 'unknown QOS slow; use one of best_effort, reliable, latched' in capsys.readouterr().err


def test_a_killed_recorder_leaves_what_it_reported(tmp_path: Path) -> None:
    bag, probe = tmp_path / 'bag', Probe('recorder_test')
    latched = QoSProfile(depth=9, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    publisher = probe.node.create_publisher(String, '/notes', latched)
    for index in range(9):
        publisher.publish(String(data=str(index)))
    topic = ['--topic', '/notes', 'std_msgs/msg/String', 'latched']
    process = subprocess.Popen(
        [sys.executable, '-m', 'segmentation_node.demo.recorder', str(bag), *topic],
        stdout=subprocess.PIPE, text=True, env=isolated_environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())['recorded']['/notes'] < 9:
            pass
        # Nothing more comes; it is handed to the disk nevertheless.
        wait_until(lambda: _notes(bag) == 9, process)
    finally:
        process.kill()
        process.communicate()
        probe.close()
    assert not (bag / 'metadata.yaml').exists()
    assert _notes(bag) == 9


def _notes(bag: Path) -> int:
    """Messages that can be read, 0 where the bag cannot be read just now."""
    with suppress(BagError), open_bag(bag, salvage=True) as recorded:
        return len(list(recorded.messages()))
    return 0
