# SPDX-License-Identifier: Apache-2.0
"""Every kind of bag is read, and every kind of damage is named with a remedy."""

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_making import (
    image_cdr,
    image_topic,
    label_cdr,
    picture,
    stamp_ns,
    string_cdr,
    string_topic,
    write_camera_bag,
    write_with_rosbags,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from segmentation_node.bags import messages
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.qos import CAMERA, LATCHED, dump_qos, is_latched
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError, ImageError
from segmentation_node.images.files import decode_file, encode_jpeg

EXPECTED = [('/notes', stamp_ns(0), string_cdr('hello'))] + [
    ('/image', stamp_ns(index), image_cdr(index)) for index in range(5)
]


def content(path: Path, salvage: bool = False) -> list[tuple[str, int, bytes]]:
    with open_bag(path, salvage) as bag:
        return [(m.topic.name, m.stamp_ns, m.cdr) for m in bag.messages()]


@pytest.mark.parametrize('version', [8, 9])
@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_what_rosbags_wrote(tmp_path: Path, plugin: StoragePlugin, version: int) -> None:
    path = write_with_rosbags(tmp_path / 'bag', plugin, version)
    assert content(path) == EXPECTED
    (file,) = (p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))
    assert content(file) == EXPECTED
    with open_bag(path) as bag:
        assert [(topic.name, count) for topic, count in bag.counts.items()] == [
            ('/notes', 1), ('/image', 5)
        ]  # fmt: skip
        assert is_latched(bag.topic('/notes').qos)
        assert bag.topic('/image').qos == ()
        assert 'uint32 height' in bag.topic('/image').definition


COMPRESSIONS = [
    (StoragePlugin.SQLITE3, CompressionMode.FILE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
]


def compressed_bag(path: Path, plugin: StoragePlugin, mode: CompressionMode) -> Path:
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer as bag:
        camera = bag.add_connection('/image', messages.IMAGE, typestore=messages.typestore())
        bag.write(camera, stamp_ns(0), image_cdr(0))
    return path


@pytest.mark.parametrize(('plugin', 'mode'), COMPRESSIONS)
def test_compressed_bags(tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode) -> None:
    path = compressed_bag(tmp_path / 'bag', plugin, mode)
    assert content(path) == [('/image', stamp_ns(0), image_cdr(0))]


@pytest.mark.parametrize('options', [
    {'compression': CompressionType.NONE},
    {'compression': CompressionType.LZ4},
    {'use_chunking': False},
    {'index_types': IndexType.NONE},
    {'use_statistics': False},
    {'repeat_channels': False},
    {'repeat_schemas': False},
    {'repeat_channels': False, 'repeat_schemas': False, 'use_statistics': False,
     'index_types': IndexType.NONE, 'use_summary_offsets': False},
])  # fmt: skip
def test_what_mcap_wrote(tmp_path: Path, options: Any) -> None:
    path = tmp_path / 'bag.mcap'
    with path.open('wb') as stream:
        writer = McapWriter(stream, chunk_size=4000, **options)
        writer.start(profile='ros2')
        definition, _ = messages.typestore().generate_msgdef(messages.IMAGE, ros_version=2)
        schema = writer.register_schema(messages.IMAGE, 'ros2msg', definition.encode())
        channel = writer.register_channel('/image', 'cdr', schema)
        for index in range(5):
            writer.add_message(channel, stamp_ns(index), image_cdr(index), stamp_ns(index) - 7)
        writer.finish()  # type: ignore[no-untyped-call]
    assert content(path) == EXPECTED[1:]
    with open_bag(path) as bag:
        assert bag.message_count == 5
        assert bag.first('/image').sent_ns == stamp_ns(0) - 7


def test_a_recording_in_several_files(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    with BagWriter(tmp_path / 'more') as more:
        more.write(image_topic(), stamp_ns(5), image_cdr(5))
    shutil.move(tmp_path / 'more' / 'more_0.mcap', path / 'bag_1.mcap')
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text())
    metadata['rosbag2_bagfile_information']['relative_file_paths'].append('bag_1.mcap')
    (path / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    assert content(path) == [*EXPECTED, ('/image', stamp_ns(5), image_cdr(5))]


OLD_TOPICS = 'id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT'


@pytest.mark.parametrize('qos_column', ['', ', offered_qos_profiles TEXT'])
def test_databases_of_older_versions(tmp_path: Path, qos_column: str) -> None:
    path = tmp_path / 'old.db3'
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f'CREATE TABLE topics({OLD_TOPICS}{qos_column});'
            'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,'
            'data BLOB)'
        )
        row = (7, '/image', messages.IMAGE, 'cdr', *([dump_qos((LATCHED,))] if qos_column else []))
        places = ', '.join('?' * len(row))
        database.execute(f'INSERT INTO topics VALUES ({places})', row)  # noqa: S608
        for index in (1, 0):
            image = (stamp_ns(index), image_cdr(index))
            database.execute('INSERT INTO messages VALUES (NULL, 7, ?, ?)', image)
        database.commit()
    assert content(path) == EXPECTED[1:3]
    with open_bag(path) as bag:
        assert bag.topic('/image').qos == ((LATCHED,) if qos_column else ())


@pytest.mark.parametrize(
    ('plugin', 'mode'), [(StoragePlugin.SQLITE3, None), *COMPRESSIONS], ids=str
)
def test_a_recording_in_two_files_of_any_kind(tmp_path: Path, plugin: Any, mode: Any) -> None:
    first, second = tmp_path / 'bag', tmp_path / 'more'
    for path in (first, second):
        if mode is None:
            write_with_rosbags(path, plugin, frames=2)
        else:
            compressed_bag(path, plugin, mode)
    once = content(first)
    metadata = yaml.safe_load((first / 'metadata.yaml').read_text())
    (file,) = metadata['rosbag2_bagfile_information']['relative_file_paths']
    renamed = file.replace('bag', 'bag_1')
    (other,) = (p for p in second.iterdir() if p.name != 'metadata.yaml')
    shutil.move(other, first / renamed)
    metadata['rosbag2_bagfile_information']['relative_file_paths'].append(renamed)
    (first / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    assert content(first) == once + once
    with open_bag(first) as bag:
        assert bag.message_count == 2 * len(once)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_without_metadata_the_files_of_a_folder_are_salvaged(tmp_path: Path, storage: str) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    (path / 'metadata.yaml').unlink()
    suffix = 'mcap' if storage == 'mcap' else 'db3'
    for index in (2, 10):
        shutil.copy(path / f'bag_0.{suffix}', path / f'bag_{index}.{suffix}')
    with BagWriter(tmp_path / 'last', storage) as last:
        last.write(image_topic(), stamp_ns(9), image_cdr(9))
    shutil.move(tmp_path / 'last' / f'last_0.{suffix}', path / f'bag_10.{suffix}')
    assert content(path, salvage=True) == [
        *EXPECTED,
        *EXPECTED,
        ('/image', stamp_ns(9), image_cdr(9)),
    ]
    (path / 'other.db3').write_bytes(b'x')
    (path / 'other.mcap').write_bytes(b'x')
    with pytest.raises(BagError, match='5 data files of 2 storages; give one of the files'):
        open_bag(path, salvage=True)


def test_messages_come_in_order_of_their_stamps(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag.mcap') as bag:
        for index in (2, 0, 1):
            bag.write(string_topic(), stamp_ns(index), string_cdr(str(index)))
    assert [stamp for _, stamp, _ in content(tmp_path / 'bag.mcap')] == [
        stamp_ns(0), stamp_ns(1), stamp_ns(2)
    ]  # fmt: skip


def test_topics_are_selected_by_name(tmp_path: Path) -> None:
    with open_bag(write_camera_bag(tmp_path / 'bag')) as bag:
        assert {m.topic.name for m in bag.messages({'/notes'})} == {'/notes'}
        with pytest.raises(BagError, match=r"no topic '/imgae'; it has /image \(sensor_msgs"):
            bag.messages({'/imgae'})


# --- Damage


def test_no_metadata(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    (path / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match=r'no metadata.yaml.*bag_0.mcap.*ros2 bag reindex'):
        open_bag(path)
    assert content(path / 'bag_0.mcap') == EXPECTED


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'is not valid rosbag2 metadata.*reindex'),
        ('{', 'is not valid rosbag2 metadata.*reindex'),
        (
            '2020-02-30',
            'is not valid rosbag2 metadata.*reindex',
        ),  # no date, though it looks like one
        ('rosbag2_bagfile_information: 3', 'is not valid rosbag2 metadata'),
        ('rosbag2_bagfile_information: {storage_identifier: mcap}', 'relative_file_paths'),
        (
            'rosbag2_bagfile_information: {relative_file_paths: []}',
            'holds bag_0.mcap, which metadata.yaml does not list',
        ),
        (
            'rosbag2_bagfile_information: {storage_identifier: mcap, relative_file_paths: [x.db]}',
            'lacks x.db,.*--salvage',
        ),
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str, says: str) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    (path / 'metadata.yaml').write_text(text)
    with pytest.raises(BagError, match=says):
        open_bag(path)


def test_what_is_no_bag_at_all(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='does not exist'):
        open_bag(tmp_path / 'nothing')
    with pytest.raises(BagError, match=r'no metadata.yaml: give the folder of a bag'):
        open_bag(tmp_path)
    for name, data, says in (
        ('empty.mcap', b'', 'is empty'),
        ('empty.db3', b'', 'is empty'),
        ('text.mcap', b'hello, hello, hello, hello, hello, hello', 'does not begin like an MCAP'),
        ('short.mcap', b'abc', 'cut short'),
        ('text.db3', b'hello' * 300, 'damaged or no bag'),
        ('frame.png', b'x', 'is not a bag: expected a folder'),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BagError, match=says):
            open_bag(tmp_path / name)
    (tmp_path / 'metadata.yaml').write_text('x')
    with pytest.raises(BagError, match='give its folder'):
        open_bag(tmp_path / 'metadata.yaml')


def chunked_bag(path: Path) -> bytes:
    """Ten frames, each in a chunk of its own."""
    with BagWriter(path) as bag:
        bag.write(string_topic(), stamp_ns(0), string_cdr('hello'))
        for index in range(10):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            bag._do(lambda file: file.flush())
    return path.read_bytes()


def test_a_truncated_mcap_says_what_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    whole = chunked_bag(path)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        BagError, match=r'cut short .*; \d+ messages before that are readable'
    ) as e:
        open_bag(path)
    saved = content(path, salvage=True)
    assert 4 <= len(saved) <= 9
    assert f'; {len(saved)} messages' in str(e.value)
    assert '--salvage' in str(e.value)
    assert saved == [
        ('/notes', stamp_ns(0), string_cdr('hello')),
        *(('/image', stamp_ns(index), image_cdr(index)) for index in range(len(saved) - 1)),
    ]


def test_every_truncation_is_noticed_and_nothing_wrong_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    whole = chunked_bag(path)
    expected = content(path)
    for length in [*range(1, 60), *range(60, len(whole), 97), *range(len(whole) - 50, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(BagError):
            content(path)
        try:
            saved = content(path, salvage=True)
        except BagError:
            saved = []
        assert saved == expected[: len(saved)]


def test_one_wrong_byte_in_a_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    whole = bytearray(chunked_bag(path))
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(BagError, match=r'\d messages before that are readable'):
        content(path)


@pytest.mark.parametrize(('plugin', 'mode'), COMPRESSIONS)
def test_compressed_bags_with_damage(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    path = compressed_bag(tmp_path / 'bag', plugin, mode)
    (file,) = (p for p in path.iterdir() if p.name != 'metadata.yaml')
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BagError, match='damaged or'):
        content(path)
    # A message's compression has no checksum: only where its frame begins is damage noticed.
    at = whole.rindex(b'\x28\xb5\x2f\xfd')
    file.write_bytes(whole[:at] + b'\0' + whole[at + 1 :])
    with pytest.raises(BagError, match='damaged or'):
        content(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(['.mcap', '.db3']),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 10**6),
    salvage=st.booleans(),
)
def test_any_damage_is_messages_or_a_bag_error(
    tmp_path: Path, suffix: str, changes: list[tuple[int, int]], cut: int, salvage: bool
) -> None:
    whole = tmp_path / f'whole{suffix}'
    if not whole.exists():
        if suffix == '.mcap':
            chunked_bag(whole)
        else:
            path = write_camera_bag(tmp_path / 'bag', storage='sqlite3')
            shutil.copy(path / 'bag_0.db3', whole)
    data = bytearray(whole.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    damaged = tmp_path / f'damaged{suffix}'
    damaged.write_bytes(data[: cut % len(data) if cut % 2 else None])
    with suppress(BagError):
        assert all(isinstance(cdr, bytes) for _, _, cdr in content(damaged, salvage))


# --- The camera


def bag_of(path: Path, *topics: Any) -> Path:
    with BagWriter(path) as bag:
        for index, topic in enumerate(topics):
            cdr = string_cdr('{}') if topic.msgtype == messages.STRING else image_cdr(index)
            bag.write(topic, stamp_ns(index), cdr)
    return path


def test_the_only_camera_is_found(tmp_path: Path) -> None:
    path = bag_of(tmp_path / 'bag', string_topic(), image_topic('/front/image'))
    with open_bag(path) as bag:
        assert find_camera(bag).name == '/front/image'


def test_masks_are_no_cameras(tmp_path: Path) -> None:
    path = bag_of(
        tmp_path / 'bag',
        image_topic('/image'),
        image_topic('/ground_truth/label_mask'),
        string_topic('/ground_truth/label_info_json'),
        messages.known_topic(
            '/x/overlay/compressed', messages.COMPRESSED_IMAGE, image_topic().qos[0]
        ),
        string_topic('/x/label_info_json'),
    )
    with open_bag(path) as bag:
        assert find_camera(bag).name == '/image'


def test_raw_is_taken_before_compressed(tmp_path: Path) -> None:
    compressed = messages.known_topic(
        '/image/compressed', messages.COMPRESSED_IMAGE, image_topic().qos[0]
    )
    path = bag_of(tmp_path / 'bag', image_topic('/image'), compressed)
    with open_bag(path) as bag:
        assert find_camera(bag).name == '/image'
        assert find_camera(bag, '/image/compressed').name == '/image/compressed'


def test_several_cameras_are_listed(tmp_path: Path) -> None:
    path = bag_of(tmp_path / 'bag', image_topic('/left'), image_topic('/right'), string_topic())
    with open_bag(path) as bag:
        with pytest.raises(BagError, match=r'2 cameras; choose one with --topic: /left, /right'):
            find_camera(bag)
        assert find_camera(bag, '/right').name == '/right'
        with pytest.raises(BagError, match=r'/notes .* is a std_msgs/msg/String.*: /left, /right'):
            find_camera(bag, '/notes')
        with pytest.raises(BagError, match="no topic '/middle'"):
            find_camera(bag, '/middle')


def test_no_camera_is_said_with_what_there_is(tmp_path: Path) -> None:
    path = bag_of(tmp_path / 'bag', string_topic('/notes'))
    with open_bag(path) as bag, pytest.raises(BagError) as error:
        find_camera(bag)
    assert 'has no image topic' in str(error.value)
    assert '/notes (std_msgs/msg/String)' in str(error.value)


# --- Messages


def test_damaged_messages_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0)[:40])
    with open_bag(tmp_path / 'bag') as again:
        (message,) = again.messages()
    with pytest.raises(messages.MessageError, match=r'/image at \d+ ns is not a valid'):
        messages.deserialize(message)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for topic in (image_topic(), string_topic()):
        raw = RawMessage(topic, 0, data, 0)
        with suppress(messages.MessageError):
            messages.deserialize(raw)


def test_labels_are_mono8_only() -> None:
    raw = RawMessage(image_topic(), 0, label_cdr(0, [[1, 2], [3, 255]]), 0)
    assert messages.decode_labels(messages.deserialize(raw)).tolist() == [[1, 2], [3, 255]]
    color = RawMessage(image_topic(), 0, image_cdr(0), 0)
    with pytest.raises(ImageError, match="encoding 'rgb8'; expected mono8"):
        messages.decode_labels(messages.deserialize(color))


def compressed_topic(name: str) -> Topic:
    return messages.known_topic(name, messages.COMPRESSED_IMAGE, CAMERA)


def jpeg_cdr(index: int) -> bytes:
    data = encode_jpeg(picture(index))
    return messages.serialize(
        messages.compressed_image(data, 'jpeg', messages.header(stamp_ns(index), 'front'))
    )


def test_compressed_images_are_shown_decoded(tmp_path: Path) -> None:
    topic = compressed_topic('/front/image/compressed')
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(3):
            bag.write(
                compressed_topic('/front/image/compressed'), stamp_ns(index), jpeg_cdr(index)
            )
        bag.write(topic, stamp_ns(3), jpeg_cdr(3)[:-20])
    with open_bag(tmp_path / 'bag', decode_images=True) as again:
        camera = find_camera(again)
        assert (camera.name, camera.msgtype) == ('/front/image', messages.IMAGE)
        assert again.count('/front/image') == 4
        images = [messages.deserialize(raw) for raw in again.messages({'/front/image'})]
        assert [messages.stamp_ns_of(image) for image in images] == [stamp_ns(i) for i in range(3)]
        for index, image in enumerate(images):
            expected = decode_file(encode_jpeg(picture(index)))
            assert np.array_equal(messages.decode(image), expected)
        assert sum(again.lost.values()) == 1


def test_compressed_images_beside_their_raw_topic_stay_compressed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0))
        bag.write(compressed_topic('/image/compressed'), stamp_ns(0), jpeg_cdr(0))
    with open_bag(tmp_path / 'bag', decode_images=True) as again:
        assert [topic.msgtype for topic in again.topics] == [
            messages.IMAGE, messages.COMPRESSED_IMAGE,
        ]  # fmt: skip
        assert next(again.messages({'/image/compressed'})).cdr == jpeg_cdr(0)
