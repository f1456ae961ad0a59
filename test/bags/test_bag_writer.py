# SPDX-License-Identifier: Apache-2.0
"""Tests of the bag writer: both libraries read what it wrote, even after failures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_making import (
    image_cdr,
    image_topic,
    stamp_ns,
    string_cdr,
    string_topic,
    write_camera_bag,
)
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from repository import TESTS
from rosbags.interfaces import ConnectionExtRosbag2, QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter, check_output
from segmentation_node.errors import BagError

FORMS = [('bag', 'mcap'), ('bag.mcap', 'mcap'), ('bag', 'sqlite3')]


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_rosbags_reads_it(tmp_path: Path, name: str, storage: str) -> None:
    path = write_camera_bag(tmp_path / name, storage=storage)
    with Reader(path) as bag:
        qos = {}
        for connection in bag.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            (qos[connection.topic],) = connection.ext.offered_qos_profiles
        assert qos['/notes'].durability == QosDurability.TRANSIENT_LOCAL
        assert qos['/image'].durability == QosDurability.VOLATILE
        assert qos['/image'].reliability == QosReliability.RELIABLE
        seen = [(c.topic, stamp, bytes(data)) for c, stamp, data in bag.messages()]
        assert bag.message_count == 6
        assert (bag.start_time, bag.end_time) == (stamp_ns(0), stamp_ns(4) + 1)
    assert seen == [('/notes', stamp_ns(0), string_cdr('hello'))] + [
        ('/image', stamp_ns(index), image_cdr(index)) for index in range(5)
    ]


@pytest.mark.parametrize(('name', 'file'), [('bag', 'bag/bag_0.mcap'), ('bag.mcap', 'bag.mcap')])
def test_mcap_reads_it_with_and_without_its_index(tmp_path: Path, name: str, file: str) -> None:
    write_camera_bag(tmp_path / name)
    expected = [image_cdr(index) for index in range(5)]
    with (tmp_path / file).open('rb') as stream:
        reader = make_reader(stream, validate_crcs=True)
        assert reader.get_header().profile == 'ros2'
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 6
        assert [m.data for _, _, m in reader.iter_messages('/image')] == expected
        schemas = {schema.name: schema for schema in summary.schemas.values()}
        assert schemas['sensor_msgs/msg/Image'].encoding == 'ros2msg'
        assert b'uint32 height' in schemas['sensor_msgs/msg/Image'].data
        (metadata,) = reader.iter_metadata()
        information = yaml.safe_load(metadata.metadata['serialized_metadata'])
        assert information['message_count'] == 6
    with (tmp_path / file).open('rb') as stream:
        records = list(StreamReader(stream, validate_crcs=True).records)
    data = [record.data for record in records if isinstance(record, Message)]
    assert data == [string_cdr('hello'), *expected]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_metadata_is_what_ros2_bag_expects(tmp_path: Path, storage: str) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage=storage)
    text = (path / 'metadata.yaml').read_text()
    content = yaml.safe_load(text)['rosbag2_bagfile_information']
    assert '&id' not in text
    assert content['version'] == 8
    assert content['storage_identifier'] == storage
    assert content['relative_file_paths'] == [f'bag_0.{"mcap" if storage == "mcap" else "db3"}']
    assert content['starting_time'] == {'nanoseconds_since_epoch': stamp_ns(0)}
    assert content['duration'] == {'nanoseconds': stamp_ns(4) - stamp_ns(0)}
    topics = {row['topic_metadata']['name']: row for row in content['topics_with_message_count']}
    assert topics['/image']['message_count'] == 5
    assert topics['/image']['topic_metadata']['type_description_hash'].startswith('RIHS01_')
    assert isinstance(topics['/notes']['topic_metadata']['offered_qos_profiles'], str)


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_an_empty_bag_is_whole(tmp_path: Path, name: str, storage: str) -> None:
    with BagWriter(tmp_path / name, storage) as bag:
        bag.add_topic(image_topic())
    with open_bag(tmp_path / name) as again:
        assert [(topic.name, count) for topic, count in again.counts.items()] == [('/image', 0)]
        assert list(again.messages()) == []


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_an_exception_leaves_a_whole_bag(tmp_path: Path, name: str, storage: str) -> None:
    def half_written() -> None:
        with BagWriter(tmp_path / name, storage) as bag:
            for index in range(3):
                bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    with Reader(tmp_path / name) as bag:
        assert bag.message_count == 3


def test_what_was_sent_when_is_kept(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag.mcap') as bag:
        bag.write(image_topic(), stamp_ns(1), image_cdr(0), sent_ns=stamp_ns(0))
    with open_bag(tmp_path / 'bag.mcap') as again:
        (message,) = again.messages()
    assert (message.stamp_ns, message.sent_ns) == (stamp_ns(1), stamp_ns(0))


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_definition_that_is_no_utf8_is_written(tmp_path: Path, name: str, storage: str) -> None:
    definition = b'float32 heat  # in \xb0C'.decode(errors='surrogateescape')  # as it is read
    topic = Topic('/heat', 'oven_msgs/msg/Heat', definition, 'ros2msg')
    with BagWriter(tmp_path / name, storage) as bag:
        bag.write(topic, stamp_ns(0), b'\0\1\0\0\0\0\0\0')
    with open_bag(tmp_path / name) as again:
        assert 'float32 heat' in again.topic('/heat').definition


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_topic_without_definition_takes_none_from_others_of_its_type(
    tmp_path: Path, name: str, storage: str
) -> None:
    old = Topic('/image', image_topic().msgtype)
    with BagWriter(tmp_path / name, storage) as bag:
        bag.add_topic(old)
        bag.add_topic(image_topic('/mask'))
        bag.write(old, stamp_ns(0), image_cdr(0))
    with open_bag(tmp_path / name) as again:
        assert 'uint32 height' in again.topic('/mask').definition


@pytest.mark.parametrize('wrong', [-1, 2**63])
def test_impossible_stamps_are_refused(tmp_path: Path, wrong: int) -> None:
    with (
        pytest.raises(BagError, match=f'stamp {wrong} ns'),
        BagWriter(tmp_path / 'bag.mcap') as bag,
    ):
        bag.write(image_topic(), wrong, b'')


# --- The disk is full

FILL = """
import resource, signal, sys
sys.path[:0] = {path!r}
from bag_making import image_cdr, image_topic, picture, stamp_ns
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError
import numpy as np
random = np.random.default_rng(0)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with BagWriter(sys.argv[1], sys.argv[2]) as bag:
        for index in range(30):
            noise = random.integers(0, 256, (400, 400, 3), np.uint8)  # does not shrink
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, noise))
except BagError as error:
    print(error)
    sys.exit(7)
"""


def fill_the_disk(path: Path, storage: str, limit: int) -> str:
    """Write 14 MB where no file may be larger than `limit`; gives back the error message."""
    code = FILL.format(path=[str(TESTS), *sys.path], limit=limit)
    done = subprocess.run(
        [sys.executable, '-c', code, str(path), storage],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    return done.stdout


@pytest.mark.parametrize('limit', [5_000_000, 5_765_432])
@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_full_disk_leaves_a_whole_bag(
    tmp_path: Path, name: str, storage: str, limit: int
) -> None:
    path = tmp_path / name
    message = fill_the_disk(path, storage, limit)
    with Reader(path) as bag:
        saved = list(bag.messages())
    assert f'; {len(saved)} of ' in message
    assert 'free some space' in message
    assert [stamp for _, stamp, _ in saved] == [stamp_ns(index) for index in range(len(saved))]
    # All that was complete is there: at most what was not yet handed to the disk is missing.
    in_flight = 5_500_000 if storage == 'sqlite3' else 2_500_000
    assert sum(len(data) for _, _, data in saved) >= limit - in_flight
    with open_bag(path) as again:
        assert len(list(again.messages())) == len(saved)


def test_no_room_for_the_index_costs_the_newest_chunk(tmp_path: Path) -> None:
    whole = tmp_path / 'whole.mcap'
    with pytest.raises(AssertionError):  # nothing goes wrong without a limit
        fill_the_disk(whole, 'mcap', 10**9)
    path = tmp_path / 'bag.mcap'
    message = fill_the_disk(path, 'mcap', whole.stat().st_size - 10)
    with Reader(path) as bag:
        saved = len(list(bag.messages()))
    assert f'; {saved} of 30 messages' in message
    assert 24 <= saved < 30


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('x')
    with pytest.raises(BagError, match=r'cannot create .*file/bag'):
        BagWriter(tmp_path / 'file' / 'bag')


# --- What is there already


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_bag_is_replaced_only_when_allowed(tmp_path: Path, name: str, storage: str) -> None:
    path = write_camera_bag(tmp_path / name, storage=storage)
    with pytest.raises(BagError, match='exists; choose another --output, or allow --overwrite'):
        write_camera_bag(path, storage=storage)
    write_camera_bag(path, frames=2, storage=storage, overwrite=True)
    with open_bag(path) as bag:
        assert bag.message_count == 3


def test_a_bag_of_another_storage_is_replaced(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag', storage='sqlite3')
    write_camera_bag(path, storage='mcap', overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == ['bag_0.mcap', 'metadata.yaml']


def test_an_unfinished_bag_is_replaced(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    (path / 'metadata.yaml').unlink()
    write_camera_bag(path, overwrite=True)


def foreign(tmp_path: Path, what: str) -> Path:
    """A place that holds more than a bag."""
    path = tmp_path / 'bag'
    if what == 'bag and notes':
        write_camera_bag(path)
        (path / 'notes.txt').write_text('x')
    elif what == 'other recordings':
        path.mkdir()
        (path / 'monday.mcap').write_text('x')
    elif what == 'bag and folder':
        write_camera_bag(path)
        (path / 'more').mkdir()
    elif what == 'link':
        path.symlink_to(write_camera_bag(tmp_path / 'real'))
    elif what == 'text file':
        path = tmp_path / 'bag.mcap'
        path.write_text('precious')
    elif what == 'folder named like a file':
        path = tmp_path / 'bag.mcap'
        write_camera_bag(tmp_path / 'bag')
        (tmp_path / 'bag').rename(path)
    return path


@pytest.mark.parametrize(
    'what',
    [
        'bag and notes', 'other recordings', 'bag and folder', 'link', 'text file',
        'folder named like a file',
    ],
)  # fmt: skip
def test_overwrite_deletes_nothing_but_a_bag(tmp_path: Path, what: str) -> None:
    path = foreign(tmp_path, what)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(BagError, match='is not just a bag'):
        BagWriter(path, overwrite=True)
    assert sorted(tmp_path.rglob('*')) == before


def test_the_input_is_never_replaced(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    for output in (path, path / 'bag_0.mcap', path / 'new.mcap', tmp_path):
        with pytest.raises(BagError, match='is or holds the input'):
            check_output(output, 'mcap', overwrite=True, inputs=[path])


@pytest.mark.parametrize(
    ('name', 'storage', 'says'),
    [
        ('bag.db3', 'sqlite3', 'only .mcap files stand alone'),
        ('bag.mcap', 'sqlite3', 'only .mcap files stand alone'),
        ('bag', 'tar', "unknown storage 'tar'; there are mcap, sqlite3"),
    ],
)
def test_impossible_outputs_are_refused(
    tmp_path: Path, name: str, storage: Any, says: str
) -> None:
    with pytest.raises(BagError, match=says):
        BagWriter(tmp_path / name, storage)


def test_two_types_on_one_topic_stay_apart(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic('/x'), stamp_ns(0), image_cdr(0))
        bag.write(string_topic('/x'), stamp_ns(1), string_cdr('a'))
    with open_bag(tmp_path / 'bag') as again:
        assert [m.topic.msgtype for m in again.messages({'/x'})] == [
            'sensor_msgs/msg/Image',
            'std_msgs/msg/String',
        ]
