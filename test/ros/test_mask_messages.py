# SPDX-License-Identifier: Apache-2.0
"""Pictures as messages: painted in the memory of the messages, which is reused."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from ros_process import pixels_of  # isort: skip

from std_msgs.msg import Header

from segmentation_node.ros.mask_messages import ImageBuffer

RNG = np.random.default_rng(3)
HEADER = Header(frame_id='camera')


@pytest.mark.parametrize(('encoding', 'shape'), [('mono8', (3, 5)), ('rgb8', (3, 5, 3))])
def test_pictures_of_any_size_become_messages(encoding: str, shape: tuple[int, ...]) -> None:
    buffer = ImageBuffer(encoding)
    for scale in (1, 2, 2, 1):
        pixels = RNG.integers(0, 256, (scale * shape[0], *shape[1:]), np.uint8)
        message = buffer.message(pixels, HEADER)
        assert (message.height, message.width, message.encoding) == (*pixels.shape[:2], encoding)
        assert message.step == pixels[0].nbytes
        assert message.header is HEADER
        np.testing.assert_array_equal(pixels_of(message), pixels)


def test_what_is_painted_on_the_canvas_is_in_the_message() -> None:
    buffer = ImageBuffer('rgb8')
    canvas = buffer.canvas((2, 4, 3))
    canvas[:] = 7
    message = buffer.message(canvas, HEADER)
    assert np.shares_memory(pixels_of(message), canvas)
    assert (pixels_of(message) == 7).all()


def test_memory_is_used_again_for_pictures_of_one_size() -> None:
    buffer = ImageBuffer('mono8')
    first = buffer.message(np.zeros((2, 4), np.uint8), HEADER)
    again = buffer.message(np.ones((2, 4), np.uint8), HEADER)
    assert first is again
    other = buffer.message(np.ones((4, 2), np.uint8), HEADER)
    assert other is not first
