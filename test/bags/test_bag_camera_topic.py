# SPDX-License-Identifier: Apache-2.0
"""The camera of a bag is found by its name, or the bag is refused with advice that helps."""

from pathlib import Path
from typing import Any

import pytest
from bag_making import image_cdr, image_topic, picture, stamp_ns, string_cdr, string_topic
from bag_probing import Plain, said_by
from mcap.writer import Writer as McapWriter

from segmentation_node.bags import messages, segment_bag
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.qos import CAMERA, LATCHED
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.errors import BagError
from segmentation_node.export.calibration_images import images_of_bag
from segmentation_node.images.files import encode_png

#: Type, format of the definition, and encoding of a channel's messages.
Channel = tuple[str, str, str]
ROS2: Channel = (messages.IMAGE, 'ros2msg', 'cdr')


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_bag, 'load_segmenter', lambda _: Plain())


def mcap(path: Path, *channels: Channel, schemas: tuple[bytes, ...] = (), **metadata: str) -> Path:
    """An MCAP file whose topic /camera has a channel after the other, a frame in each."""
    with path.open('wb') as stream:
        writer = McapWriter(stream)
        writer.start(profile='ros2')
        for index, (msgtype, format_, encoding) in enumerate(channels):
            definition = schemas[index] if schemas else b''
            schema = writer.register_schema(msgtype, format_, definition) if msgtype else 0
            more = metadata if index else {}
            channel = writer.register_channel('/camera', encoding, schema, more)
            writer.add_message(channel, stamp_ns(index), image_cdr(index), stamp_ns(index))
        writer.finish()  # type: ignore[no-untyped-call]
    return path


def segmented(path: Path, *options: object) -> tuple[int, str, int]:
    """Status, what was said, and the number of masks."""
    out = path.parent / 'out.mcap'
    status, said = said_by(segment_bag.main, path, '-o', out, '--quiet', '--overwrite', *options)
    if not out.exists():
        return status, said, 0
    with open_bag(out) as bag:
        return status, said, bag.count('/segmentation_node/label_mask')


@pytest.mark.parametrize(
    'differs',
    [
        {'topic_type_hash': 'RIHS01_x'},
        {'offered_qos_profiles': '[]', 'other': '1'},
        {'schemas': (b'uint32 height', b'# a comment\nuint32 height')},
    ],
)
@pytest.mark.parametrize('wanted', [(), ('--topic', '/camera')])
def test_a_topic_of_several_channels_is_one_camera(
    tmp_path: Path, differs: Any, wanted: tuple[str, ...]
) -> None:
    path = mcap(tmp_path / 'bag.mcap', ROS2, ROS2, **differs)
    status, said, masks = segmented(path, *wanted)
    assert (status, masks) == (0, 2)
    assert '2 of 2 frames segmented' in said
    assert len(images_of_bag(path, None, 5)) == 2
    with open_bag(path) as before, open_bag(tmp_path / 'out.mcap') as after:
        kept = {m.topic.definition: m.cdr for m in before.messages()}
        assert {m.topic.definition: m.cdr for m in after.messages({'/camera'})} == kept


def test_profiles_of_several_files_may_differ(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        for index, qos in enumerate((CAMERA, LATCHED)):
            bag.write(image_topic(qos=qos), stamp_ns(index), image_cdr(index))
    assert segmented(path)[::2] == (0, 2)


def test_a_camera_of_two_types(tmp_path: Path) -> None:
    png = messages.compressed_image(
        encode_png(picture(1)), 'png', messages.header(stamp_ns(1), 'front')
    )
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0))
        compressed = messages.known_topic('/image', messages.COMPRESSED_IMAGE, CAMERA)
        bag.write(compressed, stamp_ns(1), messages.serialize(png))
    assert segmented(path)[::2] == (0, 2)


@pytest.mark.parametrize('wanted', [(), ('--topic', '/image')])
def test_messages_of_no_image_under_the_name_are_named(
    tmp_path: Path, wanted: tuple[str, ...]
) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        bag.write(string_topic('/image'), stamp_ns(0), string_cdr('x'))
        bag.write(image_topic(), stamp_ns(1), image_cdr(1))
    status, said, masks = segmented(path, *wanted)
    assert (status, masks) == (EXIT_INCOMPLETE, 1)
    assert f'message of /image at {stamp_ns(0)} ns is a std_msgs/msg/String, expected' in said


def test_the_short_name_of_a_type(tmp_path: Path) -> None:
    path = mcap(tmp_path / 'bag.mcap', ('sensor_msgs/Image', 'ros2msg', 'cdr'))
    assert segmented(path)[::2] == (0, 1)


@pytest.mark.parametrize(
    ('channel', 'says'),
    [
        (('sensor_msgs/Image', 'ros1msg', 'ros1'), '/camera has messages of ROS 1.*rosbags-conv'),
        (('sensor_msgs/msg/Image', 'ros1msg', 'ros1'), 'messages of ROS 1'),
        (('foxglove.CompressedImage', 'protobuf', 'protobuf'), 'not in CDR.*images_to_bag'),
        (('foxglove.RawImage', 'jsonschema', 'json'), 'not in CDR.*ros2 bag record'),
        (('foxglove.CompressedVideo', 'flatbuffer', 'flatbuffer'), 'not in CDR'),
        (('', '', 'cdr'), '/camera has no schema'),
        (('theora_image_transport/msg/Packet', 'ros2msg', 'cdr'), 'not supported.*republish'),
        (('foxglove_msgs/msg/RawImage', 'ros2msg', 'cdr'), 'not supported'),
    ],
)
@pytest.mark.parametrize('wanted', [(), ('--topic', '/camera')])
def test_advice_is_for_the_case(
    tmp_path: Path, channel: Channel, says: str, wanted: tuple[str, ...]
) -> None:
    path = mcap(tmp_path / 'bag.mcap', channel)
    with open_bag(path) as bag, pytest.raises(BagError, match=says) as error:
        find_camera(bag, '/camera' if wanted else None)
    assert 'record the camera as well' not in str(error.value)
    assert segmented(path, *wanted)[::2] == (1, 0)


def test_a_camera_without_messages(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        bag.add_topic(image_topic())
        bag.write(string_topic(), stamp_ns(0), string_cdr('x'))
    status, said, _ = segmented(path)
    assert (status, '/image has no messages: check that' in said) == (1, True)
    status, said, _ = segmented(path, '--topic', '/image')
    assert (status, 'topic /image of' in said, 'has no message' in said) == (1, True, True)


def test_a_bag_without_any_camera(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(Topic('/odom', 'nav_msgs/msg/Odometry'), stamp_ns(0), b'')
    with (
        open_bag(tmp_path / 'bag') as found,
        pytest.raises(BagError, match='record the camera as well'),
    ):
        find_camera(found)
