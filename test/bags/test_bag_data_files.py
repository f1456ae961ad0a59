# SPDX-License-Identifier: Apache-2.0
"""Data files are the truth: every message in them is read, or what is missing is named."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from bag_making import image_cdr, image_topic, stamp_ns, write_camera_bag
from mcap.writer import Writer as McapWriter

from segmentation_node.bags import messages
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError

FRAMES = [image_cdr(index) for index in range(5)]
SUFFIX = {'mcap': '.mcap', 'sqlite3': '.db3'}


def frames_of(path: Path, salvage: bool = False) -> list[bytes]:
    with open_bag(path, salvage) as bag:
        found = [m.cdr for m in bag.messages() if m.topic.name == '/image']
        assert len(found) == sum(n for topic, n in bag.counts.items() if topic.name == '/image')
    return found


def change(path: Path, edit: Callable[[Any], None]) -> None:
    file = path / 'metadata.yaml'
    content = yaml.safe_load(file.read_text())
    edit(content['rosbag2_bagfile_information'])
    file.write_text(yaml.safe_dump(content))


def _edit_qos(information: Any) -> None:
    for row in information['topics_with_message_count']:
        row['topic_metadata']['offered_qos_profiles'] = '- history: 3'


def _empty_qos(information: Any) -> None:
    for row in information['topics_with_message_count']:
        row['topic_metadata']['offered_qos_profiles'] = ''


def _fewer_messages(information: Any) -> None:
    information['message_count'] = 1
    for row in information['topics_with_message_count']:
        row['message_count'] = 1


def _fewer_topics(information: Any) -> None:
    del information['topics_with_message_count'][1:]


def _other_type(information: Any) -> None:
    for row in information['topics_with_message_count']:
        row['topic_metadata']['type'] = 'sensor_msgs/msg/Imu'


def _other_storage(information: Any) -> None:
    information['storage_identifier'] = 'my_plugin'


def _with_folder(information: Any) -> None:
    information['relative_file_paths'] = [f'x/{f}' for f in information['relative_file_paths']]


EDITS = (
    _edit_qos, _empty_qos, _fewer_messages, _fewer_topics, _other_type, _other_storage,
    _with_folder,
)  # fmt: skip


@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('storage', SUFFIX)
def test_metadata_that_differs_costs_no_message(
    tmp_path: Path, storage: str, edit: Callable[[Any], None]
) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    (path / f'._bag_0{SUFFIX[storage]}').write_bytes(b'what another system leaves beside files')
    change(path, edit)
    assert frames_of(path) == FRAMES


@pytest.mark.parametrize('storage', SUFFIX)
def test_fewer_messages_than_were_recorded(tmp_path: Path, storage: str) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=3, storage=storage)
    change(path, lambda information: information['topics_with_message_count'][1].update(
        message_count=5
    ))  # fmt: skip
    with pytest.raises(BagError, match=r'3 messages of /image, .* counted 5: copy .* --salvage'):
        open_bag(path)
    assert frames_of(path, salvage=True) == FRAMES[:3]


@pytest.mark.parametrize('storage', SUFFIX)
def test_a_file_of_which_metadata_does_not_speak(tmp_path: Path, storage: str) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=4, storage=storage)
    with BagWriter(tmp_path / 'more', storage) as more:
        more.write(image_topic(), stamp_ns(4), image_cdr(4))
    (file,) = (tmp_path / 'more').glob(f'*{SUFFIX[storage]}')
    file.rename(path / f'bag_1{SUFFIX[storage]}')
    with pytest.raises(BagError, match=r'holds bag_1.*does not list: .*reindex.*--salvage'):
        open_bag(path)
    assert frames_of(path, salvage=True) == FRAMES


def test_a_file_that_was_renamed(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    (path / 'bag_0.mcap').rename(path / 'drive.mcap')
    with pytest.raises(BagError, match=r'lacks bag_0.mcap, .*--salvage'):
        open_bag(path)
    assert frames_of(path, salvage=True) == FRAMES


@pytest.mark.parametrize('data', [b'', b'junk'])
@pytest.mark.parametrize('at', [0, 2])
@pytest.mark.parametrize('storage', SUFFIX)
def test_files_that_hold_nothing_are_passed_over_to_salvage_the_others(
    tmp_path: Path, storage: str, at: int, data: bytes
) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    (path / f'bag_0{SUFFIX[storage]}').rename(path / f'bag_1{SUFFIX[storage]}')
    (path / f'bag_{at}{SUFFIX[storage]}').write_bytes(data)
    (path / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match='--salvage'):
        open_bag(path)
    assert frames_of(path, salvage=True) == FRAMES
    (path / f'bag_1{SUFFIX[storage]}').write_bytes(data)
    with pytest.raises(BagError):
        open_bag(path, salvage=True)


def test_the_storage_is_told_by_the_file(tmp_path: Path) -> None:
    for storage, name in (('mcap', 'drive.db3'), ('sqlite3', 'drive')):
        path = write_camera_bag(tmp_path / storage, storage=storage)
        file = shutil.copy(path / f'{storage}_0{SUFFIX[storage]}', tmp_path / name)
        assert frames_of(Path(file)) == FRAMES


def test_a_bag_of_ros_1_is_named_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / 'drive.bag'
    path.write_bytes(b'#ROSBAG V2.0\n' + bytes(100))
    with pytest.raises(BagError, match=r'bag of ROS 1.*rosbags-convert --src .*drive.bag --dst'):
        open_bag(path)


# --- Compressed files


def pack(file: Path, keep: bool = False) -> Path:
    packed = file.with_name(f'{file.name}.zstd')
    packed.write_bytes(zstandard.compress(file.read_bytes()))
    if not keep:
        file.unlink()
    return packed


@pytest.mark.parametrize('storage', SUFFIX)
@pytest.mark.parametrize('named', ['plain', 'packed'])
@pytest.mark.parametrize('there', ['plain', 'packed', 'both'])
@pytest.mark.parametrize('mode', ['', 'FILE'])
def test_compression_of_files_is_told_by_the_files(
    tmp_path: Path, storage: str, named: str, there: str, mode: str
) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    file = path / f'bag_0{SUFFIX[storage]}'
    if there != 'plain':
        pack(file, keep=there == 'both')

    def edit(information: Any) -> None:
        suffix = '.zstd' if named == 'packed' else ''
        information['relative_file_paths'] = [f'{file.name}{suffix}']
        information.update(compression_mode=mode, compression_format='zstd' if mode else '')

    change(path, edit)
    assert frames_of(path) == FRAMES
    (path / 'metadata.yaml').unlink()
    assert frames_of(path, salvage=True) == FRAMES


@pytest.mark.parametrize('storage', SUFFIX)
def test_a_compressed_file_alone(tmp_path: Path, storage: str) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    packed = pack(path / f'bag_0{SUFFIX[storage]}')
    assert frames_of(packed) == FRAMES
    twice = pack(packed)
    with pytest.raises(BagError, match='is not a bag'):
        open_bag(twice)


# --- Compressed messages


def packed_mcap(path: Path, metadata: str | None, frames: list[bytes]) -> Path:
    with path.open('wb') as stream:
        writer = McapWriter(stream)
        writer.start(profile='ros2')
        schema = writer.register_schema(messages.IMAGE, 'ros2msg', b'')
        channel = writer.register_channel('/image', 'cdr', schema)
        for index, data in enumerate(frames):
            writer.add_message(channel, stamp_ns(index), data, stamp_ns(index))
        if metadata is not None:
            writer.add_metadata('rosbag2', {'serialized_metadata': metadata})
        writer.finish()  # type: ignore[no-untyped-call]
    return path


ZSTD = 'compression_mode: MESSAGE\ncompression_format: zstd'
PACKED = [zstandard.compress(frame) for frame in FRAMES]


@pytest.mark.parametrize('metadata', [ZSTD, f'rosbag2_bagfile_information: {{{ZSTD}}}'.replace(
    '\n', ', '), None, '', 'compression_mode: ""', '{['])  # fmt: skip
def test_an_mcap_of_compressed_messages_alone(tmp_path: Path, metadata: str | None) -> None:
    assert frames_of(packed_mcap(tmp_path / 'bag.mcap', metadata, PACKED)) == FRAMES


def test_a_database_of_compressed_messages_alone(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage='sqlite3') / 'bag_0.db3'
    with closing(sqlite3.connect(path)) as database:
        for id_, data in database.execute('SELECT id, data FROM messages').fetchall():
            row = (zstandard.compress(data), id_)
            database.execute('UPDATE messages SET data = ? WHERE id = ?', row)
        database.commit()
    assert frames_of(path) == FRAMES


def test_messages_that_are_not_compressed_though_metadata_says_so(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    change(path, lambda i: i.update(compression_mode='MESSAGE', compression_format='zstd'))
    assert frames_of(path) == FRAMES


def test_what_metadata_in_the_file_says_is_heeded(tmp_path: Path) -> None:
    other = 'compression_mode: MESSAGE\ncompression_format: lz4'
    with pytest.raises(BagError, match=r"compression format 'lz4', expected zstd"):
        open_bag(packed_mcap(tmp_path / 'lz4.mcap', other, PACKED))
    path = packed_mcap(tmp_path / 'bad.mcap', ZSTD, [b'\x04\x22\x4d\x18 no zstd'])
    with pytest.raises(BagError, match='a message of /image is damaged or not compressed'):
        frames_of(path)


# --- Messages that a file holds and does not account for


def test_messages_of_topics_that_a_database_does_not_declare(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage='sqlite3') / 'bag_0.db3'
    with closing(sqlite3.connect(path)) as database:
        database.execute('UPDATE messages SET topic_id = 99 WHERE id > 3')
        database.commit()
    with pytest.raises(BagError, match=r'3 messages of topic 99, .* allow --salvage'):
        open_bag(path)
    assert frames_of(path, salvage=True) == FRAMES[:2]


def chunked(path: Path, edit: Callable[[Any], None]) -> Path:
    """An MCAP file of a chunk for each frame, its writer changed before the end."""
    with BagWriter(path) as bag:
        for index, frame in enumerate(FRAMES):
            bag.write(image_topic(), stamp_ns(index), frame)
            bag._do(lambda file: file.flush())
        edit(bag._file)
    return path


def test_an_index_that_leaves_out_chunks_is_not_used(tmp_path: Path) -> None:
    def forget(file: Any) -> None:
        kept, statistics = file._chunks, file._statistics
        all_counted = statistics()
        file._statistics = lambda: all_counted
        file._chunks = kept[1:3]

    assert frames_of(chunked(tmp_path / 'bag.mcap', forget)) == FRAMES


@pytest.mark.parametrize('count', [3, 9])
def test_a_file_that_counts_other_than_it_holds(tmp_path: Path, count: int) -> None:
    def miscount(file: Any) -> None:
        counted = file._statistics()
        counted.channel_message_counts = {1: count}
        file._statistics = lambda: counted

    path = chunked(tmp_path / 'bag.mcap', miscount)
    with open_bag(path) as bag, pytest.raises(
        BagError, match=f'5 messages were read, but it counts {count}'
    ):  # fmt: skip
        list(bag.messages())
    with open_bag(path, salvage=True) as bag:
        assert [message.cdr for message in bag.messages()] == FRAMES
