# SPDX-License-Identifier: Apache-2.0
"""Publishers raise ShutDown after a shutdown, and all other errors unchanged."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from ros_process import DOMAIN_ID  # isort: skip

import rclpy
from std_msgs.msg import Header

from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline.outputs import OUTPUTS, ShutDown
from segmentation_node.ros.publishers import CameraPublishers


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    context.init(domain_id=DOMAIN_ID)
    yield rclpy.create_node('publishing', context=context)
    context.try_shutdown()


def publish(publishers: CameraPublishers) -> None:
    labels = np.zeros((2, 3), np.uint8)
    rendered = Rendered(
        np.zeros((2, 3, 3), np.uint8), labels, lambda: labels, load_scheme('cityscapes8'), 0.5
    )
    publishers.publish([OUTPUTS['label_mask']], rendered, Header())


def test_a_shutdown_has_an_error_of_its_own(node: Any) -> None:
    publishers = CameraPublishers(node, 'front')
    publish(publishers)
    assert publishers.wanted() == []
    node.context.shutdown()
    with pytest.raises(ShutDown):
        publish(publishers)
    with pytest.raises(ShutDown):
        publishers.wanted()


def test_other_errors_of_ros_are_not_taken_for_a_shutdown(node: Any) -> None:
    publishers = CameraPublishers(node, 'front')
    publishers.destroy(node)
    with pytest.raises(RuntimeError):
        publish(publishers)
