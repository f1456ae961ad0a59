# SPDX-License-Identifier: Apache-2.0
"""Reasons for the file format code that is ours: each test shows what a library cannot do.

A test that fails after an update of mcap or rosbags names code that may be replaced.
"""

import sqlite3
import struct
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import apsw
import lz4.frame  # type: ignore[import-untyped]
import pytest
import yaml
from bag_hostile import DEEP_YAML, bomb, copy_amid_transaction, mcap_bag, packed_bag, sqlite_bag
from bag_making import image_cdr, string_cdr, write_camera_bag
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import StreamReader, breakup_chunk, get_chunk_data_stream
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionMode, Reader, ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from segmentation_node.bags.reader import open_bag

#: Messages of the bags in bag_hostile.
ALL = [string_cdr('hello'), image_cdr(0), image_cdr(1)]

# --- mcap_file.py


class FullDisk(BytesIO):
    """A stream on which one write fails for want of room, and later ones do not."""

    is_full = False

    def write(self, data: Any, /) -> int:
        if self.is_full:
            self.is_full = False
            raise OSError(28, 'No space left on device')
        return super().write(data)


def test_the_writer_of_mcap_counts_messages_that_did_not_fit_on_the_disk() -> None:
    stream = FullDisk()
    writer = McapWriter(stream)
    writer.start(profile='ros2')
    channel = writer.register_channel('/image', 'cdr', 0)
    writer.add_message(channel, 1, b'first', 1)
    writer.flush()  # type: ignore[no-untyped-call]
    writer.add_message(channel, 2, b'second', 2)
    stream.is_full = True
    with pytest.raises(OSError, match='No space'):
        writer.flush()  # type: ignore[no-untyped-call]
    with suppress(OSError):
        writer.finish()  # type: ignore[no-untyped-call]
    stream.seek(0)
    reader = make_reader(stream)
    summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 2
    assert [message.data for _, _, message in reader.iter_messages()] == [b'first']


# --- mcap_records.py and compression.py


def test_mcap_decompresses_more_than_a_chunk_says() -> None:
    packed = lz4.frame.compress(bytes(64 << 20))
    chunk = Chunk('lz4', packed, 0, 0, 0, uncompressed_size=100)
    assert get_chunk_data_stream(chunk)[1] == 64 << 20


def test_rosbags_decompresses_a_message_of_any_size(tmp_path: Path) -> None:
    path = packed_bag(tmp_path / 'bag', 'message', bomb(300 << 20))
    with Reader(path) as bag:
        assert max(len(data) for _, _, data in bag.messages()) == 300 << 20


class Asked(BytesIO):
    """A stream that notes the largest number of bytes it was asked for."""

    most = 0

    def read(self, length: int | None = -1, /) -> bytes:
        self.most = max(self.most, length or 0)
        return super().read(length)


def test_mcap_asks_for_as_many_bytes_as_a_record_claims(tmp_path: Path) -> None:
    data = bytearray(mcap_bag(tmp_path / 'bag.mcap').read_bytes())
    with (tmp_path / 'bag.mcap').open('rb') as stream:
        records = StreamReader(stream, emit_chunks=True).records
        chunk = next(record for record in records if isinstance(record, Chunk))
    at = data.index(chunk.data) - 8
    data[at : at + 8] = (1 << 40).to_bytes(8, 'little')
    asked = Asked(data)
    with suppress(McapError, ValueError, RuntimeError):
        list(StreamReader(asked, emit_chunks=True).records)
    assert asked.most == 1 << 40


def test_mcap_takes_the_rest_of_the_file_for_a_message_shorter_than_its_head() -> None:
    content = struct.pack('<BQHIQQ', Opcode.MESSAGE, 5, 0, 0, 0, 0) + b'many more records'
    (message,) = breakup_chunk(Chunk('', content, 0, 0, 0, len(content)))
    assert isinstance(message, Message)
    assert message.data == b'many more records'


def test_mcap_passes_over_a_chunk_within_a_chunk() -> None:
    content = struct.pack('<BQ', Opcode.CHUNK, 44) + bytes(44)
    assert breakup_chunk(Chunk('', content, 0, 0, 0, len(content))) == []


# --- mcap_storage.py


def test_rosbags_reads_nothing_of_a_file_that_was_cut(tmp_path: Path) -> None:
    path = mcap_bag(tmp_path / 'bag.mcap')
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReaderError), Reader(path):
        pass
    with path.open('rb') as stream, pytest.raises((McapError, ValueError)):
        list(make_reader(stream).iter_messages())
    with open_bag(path, salvage=True) as bag:
        assert len(list(bag.messages())) == 3


# --- data_files.py and metadata.py


def test_rosbags_reads_no_message_of_a_topic_whose_qos_differs_in_metadata(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    content = yaml.safe_load((path / 'metadata.yaml').read_text())
    for row in content['rosbag2_bagfile_information']['topics_with_message_count']:
        row['topic_metadata']['offered_qos_profiles'] = ''
    (path / 'metadata.yaml').write_text(yaml.safe_dump(content))
    with Reader(path) as bag:
        assert list(bag.messages(bag.connections)) == []
    with open_bag(path) as ours:
        assert len(list(ours.messages())) == 6


# --- sqlite_storage.py


def test_rosbags_leaves_out_messages_of_a_topic_that_is_not_declared(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'bag.db3')
    with closing(sqlite3.connect(path)) as database:
        database.execute('UPDATE messages SET topic_id = 99 WHERE topic_id = 2')
        database.commit()
    with Reader(path) as bag:
        assert len(list(bag.messages(bag.connections))) == 1
        assert bag.message_count == 3


def test_rosbags_reads_rows_that_are_computed_to_be_large(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'bag.db3')
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            'DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, '
            'timestamp INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(300000000))); '
            'INSERT INTO messages VALUES (1, 1, 1);'
        )
    with Reader(path) as bag:
        ((_, _, data),) = bag.messages(bag.connections)
    assert len(data) == 300_000_000


def test_rosbags_ignores_the_journal_of_an_unfinished_transaction(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'whole.db3')
    left = copy_amid_transaction(path, tmp_path / 'left.db3')
    with suppress(ReaderError, apsw.Error), Reader(left) as bag:
        assert [bytes(data) for _, _, data in bag.messages(bag.connections)] != ALL
    with open_bag(left) as ours:
        assert [message.cdr for message in ours.messages()] == ALL


# --- sqlite_file.py


def test_rosbags_commits_a_database_when_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / 'bag').mkdir()
    writer = Sqlite3Writer(tmp_path / 'bag', CompressionMode.NONE)
    with closing(writer.conn):
        writer.conn.execute("INSERT INTO messages VALUES (NULL, 1, 1, x'00')")
        with closing(sqlite3.connect(writer.path)) as other:
            assert other.execute('SELECT count(*) FROM messages').fetchone() == (0,)


# --- qos.py


def test_rosbags_recurses_into_the_yaml_of_profiles() -> None:
    with pytest.raises(RecursionError):
        parse_qos(DEEP_YAML)
