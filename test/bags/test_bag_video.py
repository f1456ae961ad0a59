# SPDX-License-Identifier: Apache-2.0
"""Bags of compressed video are segmented, scored and shown as bags of images are."""

from pathlib import Path

import numpy as np
import pytest
from bag_making import image_topic, stamp_ns
from bag_probing import Plain, said_by

pytest.importorskip('av')

from video_making import TOPIC, frame, video, video_bag, video_cdr

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import camera_topic, messages, reader, segment_bag
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.errors import BagError
from segmentation_node.export.calibration_images import images_of_bag
from segmentation_node.images.rendering import Rendered

MASK = '/segmentation_node/label_mask'
VIDEOS = [
    (messages.FFMPEG_PACKET, 'libx264'),
    (messages.FOXGLOVE_VIDEO, 'libx265'),
    (messages.COMPRESSED_IMAGE, 'libx264'),  # as Isaac ROS and others send it
]


class Brightness(Plain):
    """Labels each image with the number of its frame."""

    def render(self, image_rgb: UInt8Array, overlay_alpha: float, **_: object) -> Rendered:
        rendered = super().render(image_rgb, overlay_alpha)
        rendered.label_mask[:] = np.round((image_rgb.mean() - 20) / 20)
        return rendered


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_bag, 'load_segmenter', lambda _: Brightness())


def segmented(path: Path, *options: object) -> tuple[int, str, list[tuple[int, int, int]]]:
    """Status, what was said, and when each mask was recorded, its stamp in frames, its label."""
    out = path.parent / 'out.mcap'
    arguments = (path, '-o', out, '--quiet', '--outputs', 'label_mask', '--overwrite', *options)
    status, said = said_by(segment_bag.main, *arguments)
    if status not in (0, EXIT_INCOMPLETE):
        return status, said, []
    with open_bag(path) as before, open_bag(out) as after:
        kept = [m.cdr for m in after.messages({TOPIC})]
        assert kept == [m.cdr for m in before.messages({TOPIC})][: len(kept)]
        masks = []
        for raw in after.messages({MASK}):
            mask = messages.deserialize(raw)
            assert mask.header.frame_id == 'front'
            (label,) = set(mask.data.tolist())
            period_ns = stamp_ns(1) - stamp_ns(0)
            index = (messages.stamp_ns_of(mask) - stamp_ns(0)) // period_ns
            masks.append(((raw.stamp_ns - stamp_ns(0)) // period_ns, index, label))
    return status, said, masks


@pytest.mark.parametrize(('msgtype', 'encoder'), VIDEOS)
def test_every_frame_of_a_video_is_segmented(tmp_path: Path, msgtype: str, encoder: str) -> None:
    codec = {'libx264': 'h264', 'libx265': 'h265'}[encoder]
    path = video_bag(tmp_path / 'bag.mcap', video(6, encoder), msgtype, codec)
    status, said, masks = segmented(path)
    assert (status, masks) == (0, [(index, index, index) for index in range(6)])
    assert '6 of 6 frames segmented' in said
    assert segmented(path, '--limit', 4)[2] == masks[:4]


def test_frames_that_wait_for_others_have_their_own_masks(tmp_path: Path) -> None:
    path = video_bag(tmp_path / 'bag.mcap', video(8, key_every=8, b_frames=2))
    status, _, masks = segmented(path)
    assert status == 0
    assert sorted(label for _, _, label in masks) == list(range(8))
    assert all(index == label for _, index, label in masks)


def test_frames_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    status, said, masks = segmented(video_bag(tmp_path / 'bag.mcap', video(6)[1:]))
    assert status == EXIT_INCOMPLETE
    assert [label for _, _, label in masks] == [3, 4, 5]
    assert '3 of 5 frames segmented, 2 malformed' in said
    assert f'frame 0 at {stamp_ns(0)} ns: a h264 frame cannot be decoded' in said


@pytest.mark.parametrize('msgtype', [*messages.VIDEOS, messages.COMPRESSED_IMAGE])
def test_a_video_is_shown_as_images(tmp_path: Path, msgtype: str) -> None:
    path = video_bag(tmp_path / 'bag.mcap', video(6)[1:], msgtype)
    with open_bag(path, decode_video=True) as bag:
        found = find_camera(bag)
        assert (found.name, found.msgtype) == (TOPIC, messages.IMAGE)
        for _ in range(2):  # read again, as a replay in a loop does
            images = [(raw.topic, messages.deserialize(raw)) for raw in bag.messages({TOPIC})]
            assert [topic for topic, _ in images] == [found] * 3
            for index, (_, image) in enumerate(images, 3):
                assert messages.stamp_ns_of(image) == stamp_ns(index)
                assert image.encoding == 'rgb8'
                rgb = messages.decode(image).astype(int)
                assert np.abs(rgb - frame(index)).max() < 8
            list(bag.messages(set()))
            assert sum(bag.lost.values()) == 2
    assert len(images_of_bag(path, None, 9)) == 3


def test_without_pyav_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video_bag(tmp_path / 'bag.mcap', video(1))
    for module in (camera_topic, reader):
        monkeypatch.setattr(module, 'can_decode', lambda: False)
    for decode_video in (False, True):
        with (
            open_bag(path, decode_video=decode_video) as bag,
            pytest.raises(BagError, match=r'is compressed video .*PyAV: pip install .*\[demo\]'),
        ):
            find_camera(bag)


def test_of_images_and_video_the_images_are_taken(tmp_path: Path) -> None:
    packet = video(1)[0]
    with BagWriter(tmp_path / 'bag') as bag:
        for name, msgtype in (
            ('/camera/image/foxglove', messages.FOXGLOVE_VIDEO),
            ('/camera/image/ffmpeg', messages.FFMPEG_PACKET),
        ):
            bag.write(Topic(name, msgtype), stamp_ns(0), video_cdr(msgtype, packet))
        for name in ('/camera/image/compressedDepth', '/camera/image/compressed'):
            bag.write(Topic(name, messages.COMPRESSED_IMAGE), stamp_ns(0), b'')
    with open_bag(tmp_path / 'bag') as found:
        assert find_camera(found).name == '/camera/image/compressed'
    with BagWriter(tmp_path / 'raw') as bag:
        bag.write(image_topic('/camera/image'), stamp_ns(0), b'')
        bag.write(Topic(TOPIC, messages.FFMPEG_PACKET), stamp_ns(0), b'')
    with open_bag(tmp_path / 'raw') as found:
        assert find_camera(found).name == '/camera/image'
