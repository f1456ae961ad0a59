# SPDX-License-Identifier: Apache-2.0
"""What the recorder is asked for is checked before it listens; the demo's tests see it record."""

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from segmentation_node.ros.recorder import main


def test_a_type_that_is_not_known_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar = ['--topic', '/radar', 'radar_msgs/msg/RadarScan', 'reliable']
    assert main([str(tmp_path / 'bag'), *radar]) == 1
    said = capsys.readouterr().err
    assert 'topic /radar is to be of type radar_msgs/msg/RadarScan, which is none of' in said


def test_a_qos_that_is_not_known_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / 'bag'), '--topic', '/image', 'sensor_msgs/msg/Image', 'slow'])
    assert ended.value.code == 2
    assert 'unknown QOS slow; there are best_effort, reliable, latched' in capsys.readouterr().err
