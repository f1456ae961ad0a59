# SPDX-License-Identifier: Apache-2.0
"""Whole bags whose values are hostile: each is well-formed, and no recorder would write it."""

import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import lz4.frame  # type: ignore[import-untyped]
import yaml
import zstandard
from bag_making import image_cdr, stamp_ns, string_cdr, write_camera_bag
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from segmentation_node.bags import messages

ESCAPES: Final = '/\x1b]0;owned\x07\x1b[2J\x1b[31m/image'
#: A sequence of YAML that a parser without bounds recurses into.
DEEP_YAML: Final = '[' * 5000 + ']' * 5000
#: A billion values in a few hundred bytes.
LAUGHING_YAML: Final = (
    'a: &a [x, x, x, x, x, x, x, x, x]\n'
    + ''.join(f'{b}: &{b} [{", ".join([f"*{a}"] * 9)}]\n' for a, b in pairwise('abcdefghi'))
    + 'rosbag2_bagfile_information: *i\n'
)

#: Names that ROS 2 does not allow, and what a terminal would obey.
NAMES: Final = (
    '/2/camera', '', '/', '//x', '/x//y', '/x/', 'camera', '~/x', '{node}/x', '/x y', '/é',
    '/x\0y', ESCAPES, '/x\ny: [', '/' + 'x' * 100_000, '../../etc/passwd', '/x-y', '/x__y_',
)  # fmt: skip
TYPES: Final = (
    '', '../msg/X', '/msg/X', '/msg/', 'msg', 'a/b/c/msg/X', 'os/msg/path', 'antigravity/msg/X',
    'sensor_msgs/msg/Nothing', 'sensor_msgs/msg/__file__', 'sensor_msgs/msg/Image\0', ESCAPES,
    '..sensor_msgs/msg/Image', 'x' * 100_000, 'sensor_msgs/Image', messages.FOXGLOVE_VIDEO,
    messages.FFMPEG_PACKET,
)  # fmt: skip
ROW: Final = {
    'history': 1, 'depth': 5, 'reliability': 1, 'durability': 2,
    'deadline': {'sec': 0, 'nsec': 0}, 'lifespan': {'sec': 0, 'nsec': 0}, 'liveliness': 1,
    'liveliness_lease_duration': {'sec': 0, 'nsec': 0}, 'avoid_ros_namespace_conventions': False,
}  # fmt: skip


def _row(**changes: object) -> str:
    text: str = yaml.safe_dump([{**ROW, **changes}])
    return text


QOS: Final = (
    _row(depth=-5), _row(depth=2**62), _row(depth=2**31 - 1), _row(depth=10**400),
    _row(depth='deep'), _row(depth=None), _row(depth=1.5), _row(history=-1), _row(history=[1]),
    _row(durability=10**30), _row(deadline={'sec': -1, 'nsec': 2**70}), _row(lifespan=3),
    '- {a: 1}\n' * 100_000, DEEP_YAML, LAUGHING_YAML, '{[', '- !!python/object:os.system x', '- 3',
    '\0', 'x' * 2_000_000,
)  # fmt: skip
DEFINITIONS: Final = (
    '', '\0', 'Image image\n' * 3, '=' * 100_000, 'uint8[4294967295] data', DEEP_YAML, ESCAPES,
)  # fmt: skip
#: By the key of metadata.yaml.
METADATA: Final[Mapping[str, tuple[Any, ...]]] = {
    'storage_identifier': (['mcap'], {'mcap': 1}, 3, None, '', ESCAPES, 'x' * 100_000),
    'relative_file_paths': (
        None, 3, 'bag_0.mcap', [], [3], [None], ['..'], [''], ['/'], ['/etc/passwd'], ['\0'],
        [['bag_0.mcap']], ['bag_0.mcap', 'bag_0.mcap'], ['bag_0.db3'] * 3, ['x'] * 20_000,
        [ESCAPES], ['x' * 1000], ['é' * 200], ['\ud800'],
    ),
    'compression_mode': (3, [1], {}, 'file', 'message', 'FILE', 'storage', 'x' * 10_000, ESCAPES),
    'compression_format': (3, [1], {}, 'zstd', 'lz4', ESCAPES),
    'version': (-1, 10**400, None, 'x', [], 99),
    'message_count': (-1, 10**400, None, 'x', []),
    'duration': (-1, None, 'x', {'nanoseconds': -1}, {'nanoseconds': 10**400}),
    'starting_time': (-1, None, 'x', {'nanoseconds_since_epoch': 'x'}),
    'topics_with_message_count': (
        None, 3, [3], [None], [{'topic_metadata': 3, 'message_count': 1}],
        [{'topic_metadata': {'name': [1], 'type': {}}, 'message_count': -1}],
    ),
    'files': (None, 3, [3], [{'path': 3}]),
    'custom_data': (3, [3], {3: 4}),
    'ros_distro': (3, [3], ESCAPES),
}  # fmt: skip
#: Whole contents of metadata.yaml.
DOCUMENTS: Final = (
    '', '{', '3', '[]', 'rosbag2_bagfile_information: []', 'rosbag2_bagfile_information: 3',
    DEEP_YAML, f'rosbag2_bagfile_information: {DEEP_YAML}', LAUGHING_YAML, '\0', '!!binary x',
    '!!python/object/apply:os.system ["true"]', '- ' * 5000, '{a: ' * 5000, '"' + 'x' * 1_000_000,
    'rosbag2_bagfile_information: !!set {a}', '2020-02-30', '? ' * 3000, '\ufeff', '%YAML 9.9',
)  # fmt: skip


def write_metadata(path: Path, key: str, value: object) -> None:
    """Change one value in the metadata.yaml of a bag."""
    file = path / 'metadata.yaml'
    content = yaml.safe_load(file.read_text())
    content['rosbag2_bagfile_information'][key] = value
    file.write_text(yaml.safe_dump(content))


def mcap_bag(
    path: Path,
    name: str = '/image',
    msgtype: str = messages.IMAGE,
    qos: str = '',
    definition: str = 'string data',
    stamps: tuple[int, ...] = (),
    compression: CompressionType = CompressionType.ZSTD,
) -> Path:
    """An MCAP file with the hostile topic, and a good one, /notes."""
    with path.open('wb') as stream:
        writer = McapWriter(stream, compression=compression)
        writer.start(profile='ros2')
        schema = writer.register_schema(msgtype, 'ros2msg', definition.encode())
        text = writer.register_schema(messages.STRING, 'ros2msg', b'string data')
        channel = writer.register_channel(name, 'cdr', schema, {'offered_qos_profiles': qos})
        notes = writer.register_channel('/notes', 'cdr', text)
        for index, stamp in enumerate(stamps or (stamp_ns(0), stamp_ns(1))):
            writer.add_message(channel, stamp, image_cdr(index), stamp)
        writer.add_message(notes, stamp_ns(0), string_cdr('hello'), stamp_ns(0))
        writer.finish()  # type: ignore[no-untyped-call]
    return path


def sqlite_bag(
    path: Path,
    name: object = '/image',
    msgtype: object = messages.IMAGE,
    qos: object = '',
    definition: object = 'string data',
    stamps: tuple[object, ...] = (),
    data: object = None,
) -> Path:
    """A database with the hostile topic, and a good one, /notes."""
    folder = write_camera_bag(path.parent / f'{path.name}_made', frames=2, storage='sqlite3')
    (file,) = folder.glob('*.db3')
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE topics SET name = ?, type = ?, offered_qos_profiles = ? WHERE name = '/image'",
            (name, msgtype, qos),
        )
        database.execute(
            'UPDATE message_definitions SET topic_type = ?, encoded_message_definition = ? '
            "WHERE topic_type LIKE '%Image'",
            (msgtype, definition),
        )
        for index, stamp in enumerate(stamps):
            database.execute(
                'UPDATE messages SET timestamp = ? WHERE id = (SELECT id FROM messages WHERE '
                'topic_id = 2 ORDER BY id LIMIT 1 OFFSET ?)',
                (stamp, index),
            )
        if data is not None:
            database.execute('UPDATE messages SET data = ? WHERE topic_id = 2', (data,))
    database.close()
    file.rename(path)
    (folder / 'metadata.yaml').unlink()
    folder.rmdir()
    return path


def copy_amid_transaction(path: Path, copy: Path) -> Path:
    """Copy a database and its journal while a transaction is partly in the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute('PRAGMA cache_size = 1')  # so that pages are written before the end
        database.execute('BEGIN IMMEDIATE')
        database.execute('UPDATE messages SET data = zeroblob(100000)')
        for index in range(50):
            row = (stamp_ns(index), bytes(10_000))
            database.execute('INSERT INTO messages VALUES (NULL, 2, ?, ?)', row)
        for suffix in ('', '-journal'):
            shutil.copy(f'{path}{suffix}', f'{copy}{suffix}')
        database.execute('ROLLBACK')
    return copy


def zstd_claim(size: int, of: bytes = b'x') -> bytes:
    """A zstd frame of a few bytes that claims to be `size` bytes when decompressed."""
    # Single segment, content size in 8 bytes; then one block, the last, raw.
    block = struct.pack('<I', len(of) << 3 | 1)[:3] + of
    return b'\x28\xb5\x2f\xfd' + b'\xe0' + struct.pack('<Q', size) + block


def bomb(size: int) -> bytes:
    """A zstd frame that is that large when decompressed, and does not tell."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    part = bytes(1 << 20)
    return b''.join([*(packer.compress(part) for _ in range(size >> 20)), packer.flush()])


def chunk_bag(path: Path, change: Callable[[Chunk], None]) -> Path:
    """An MCAP file without an index whose only chunk was changed."""
    mcap_bag(path)
    with path.open('rb') as stream:
        records = StreamReader(stream, emit_chunks=True).records
        chunk = next(record for record in records if isinstance(record, Chunk))
    change(chunk)
    return file_of_chunks(path, [chunk])


def file_of_chunks(path: Path, chunks: list[Chunk]) -> Path:
    """An MCAP file of chunks alone."""
    from mcap.data_stream import RecordBuilder
    from mcap.records import DataEnd, Footer, Header

    builder = RecordBuilder()
    for record in (Header('ros2', 'x'), *chunks, DataEnd(0), Footer(0, 0, 0)):
        record.write(builder)
    magic = b'\x89MCAP0\r\n'
    path.write_bytes(magic + builder.end() + magic)  # type: ignore[no-untyped-call]
    return path


def hostile_bags(folder: Path) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Yield the name of each hostile bag and a function that writes it; all bags are small."""
    for key, values in (('name', NAMES), ('msgtype', TYPES), ('qos', QOS),
                        ('definition', DEFINITIONS)):  # fmt: skip
        for index, value in enumerate(values):
            at = folder / f'{key}_{index}'
            options: dict[str, Any] = {key: value}
            yield f'mcap {key} {index}', partial(mcap_bag, at.with_suffix('.mcap'), **options)
            yield f'db3 {key} {index}', partial(sqlite_bag, at.with_suffix('.db3'), **options)
    for storage in ('mcap', 'sqlite3'):
        for key, values in METADATA.items():
            for index, value in enumerate(values):
                at = folder / f'{storage}_{key}_{index}'
                yield f'{storage} {key} {index}', partial(_with_value, at, storage, key, value)
        for index, text in enumerate(DOCUMENTS):
            at = folder / f'{storage}_document_{index}'
            yield f'{storage} document {index}', partial(_with_document, at, storage, text)
    for index, (change, _) in enumerate(CHUNKS):
        at = folder / f'chunk_{index}.mcap'
        yield f'mcap chunk {index}', partial(chunk_bag, at, change)
    for index, statement in enumerate(STATEMENTS):
        yield f'db3 sql {index}', partial(_with_sql, folder / f'sql_{index}.db3', statement)
    for index, stamps in enumerate(((2**63, 1), (2**64 - 1, 2**64 - 1), (0, 2**62))):
        at = folder / f'stamps_{index}.mcap'
        yield f'mcap stamps {index}', partial(mcap_bag, at, stamps=stamps)
    for index, stamps_ in enumerate(((-1, 5), ('x', 5), (1.5, b'x'), (2**62, 0))):
        at = folder / f'stamps_{index}.db3'
        yield f'db3 stamps {index}', partial(sqlite_bag, at, stamps=stamps_)
    for index, data in enumerate((b'', b'x', 'text', 5, bytes(3), b'\xff' * 5000)):
        at = folder / f'data_{index}.db3'
        yield f'db3 data {index}', partial(sqlite_bag, at, data=data)
    for mode in ('file', 'message'):
        for index, packed in enumerate(PACKED):
            at = folder / f'{mode}_{index}'
            yield f'sqlite3 {mode} {index}', partial(packed_bag, at, mode, packed)


def _with_value(path: Path, storage: str, key: str, value: object) -> Path:
    write_metadata(write_camera_bag(path, frames=2, storage=storage), key, value)
    return path


def _with_document(path: Path, storage: str, text: str) -> Path:
    write_camera_bag(path, frames=2, storage=storage)
    (path / 'metadata.yaml').write_text(text, encoding='utf-8')
    return path


def _with_sql(path: Path, statements: str) -> Path:
    sqlite_bag(path)
    with sqlite3.connect(path) as database:
        database.executescript(statements)
    database.close()
    return path


def packed_bag(path: Path, mode: str, packed: bytes) -> Path:
    """A compressed bag whose file, or whose every message of /image, is that."""
    write_camera_bag(path, frames=2, storage='sqlite3')
    write_metadata(path, 'compression_mode', mode.upper())
    write_metadata(path, 'compression_format', 'zstd')
    (file,) = path.glob('*.db3')
    if mode == 'file':
        file.write_bytes(packed)
        return path
    with sqlite3.connect(file) as database:
        database.execute('UPDATE messages SET data = ?', (packed,))
    database.close()
    return path


def _sized(size: int) -> Callable[[Chunk], None]:
    def change(chunk: Chunk) -> None:
        chunk.uncompressed_size = size

    return change


def _packed(data: bytes, compression: str = 'zstd', size: int | None = None) -> Any:
    def change(chunk: Chunk) -> None:
        chunk.data, chunk.compression, chunk.uncompressed_crc = data, compression, 0
        if size is not None:
            chunk.uncompressed_size = size

    return change


def _record(opcode: int, length: int, content: bytes = b'') -> bytes:
    return struct.pack('<BQ', opcode, length) + content


#: What makes a chunk hostile, and what the refusal says.
CHUNKS: Final = (
    (_sized(0), 'decompressed'),
    (_sized(3 << 30), 'claims 3221225472 bytes, expected at most 512 MiB'),
    (_sized(2**63), 'claims 9223372036854775808 bytes'),
    (_packed(zstd_claim(3 << 30)), 'larger than'),
    (_packed(zstd_claim(2**63)), 'larger than'),
    (_packed(zstd_claim(3 << 30), size=3 << 30), 'claims 3221225472 bytes'),
    (_packed(zstd_claim(400 << 20), size=400 << 20), 'damaged or not compressed'),
    (_packed(bomb(64 << 20)), 'larger than'),
    (_packed(lz4.frame.compress(bytes(64 << 20)), 'lz4'), 'larger than'),
    (_packed(b'\x04\x22\x4d\x18', 'lz4'), 'damaged or not compressed'),
    (_packed(b'x', ''), 'has 1 bytes, expected'),
    (_packed(b'x', 'gzip'), "compression 'gzip'; expected one of '', 'zstd', 'lz4'"),
    (_packed(b'', ESCAPES), 'expected one of'),
    # Records inside: longer than the chunk, shorter than a message, of no declared channel.
    (_packed(_record(5, 2**62), '', 9), 'has length 4611686018427387904'),
    (_packed(_record(5, 5, b'12345'), '', 14), 'claims 4 bytes at byte 11, but only 3 follow'),
    (_packed(_record(5, 22, bytes(22)), '', 31), 'channel 0, which is not declared'),
    (_packed(_record(6, 44, bytes(44)), '', 53), 'holds a chunk'),
    (_packed(_record(3, 4, b'\1\0\xff\xff'), '', 13), 'at byte 11, but only 2 follow'),
    (_packed(_record(4, 12, b'\1\0\1\0' + b'\xff' * 8), '', 21), 'claims 4294967295 bytes at'),
)  # fmt: skip
#: What makes a database hostile: first views that never end in place of the tables, then rows
#: that are computed to be large.
STATEMENTS: Final = (
    """DROP TABLE messages; CREATE VIEW messages AS
    WITH RECURSIVE r(id, topic_id, timestamp, data) AS
    (VALUES (1, 1, 1, x'00') UNION ALL SELECT id + 1, 1, 1, x'00' FROM r) SELECT * FROM r;""",
    """DROP TABLE topics; CREATE VIEW topics AS
    WITH RECURSIVE r(id, name, type, serialization_format) AS
    (VALUES (1, '/x', 'y', 'cdr') UNION ALL SELECT id + 1, name, type, serialization_format FROM r)
    SELECT *, '' AS offered_qos_profiles FROM r;""",
    """DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER,
    timestamp INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(900000000)));
    INSERT INTO messages VALUES (1, 1, 1);""",
    """DROP TABLE messages; CREATE TABLE messages(id, topic_id, timestamp, data);
    INSERT INTO messages VALUES (1, 1, 1, zeroblob(300000000));""",
    'DROP TABLE topics;',
    'DROP TABLE messages;',
    'ALTER TABLE topics DROP COLUMN type;',
    'DELETE FROM topics;',
    'UPDATE topics SET id = -1 WHERE id = 1;',
    'UPDATE topics SET name = 5;',
    "UPDATE topics SET name = x'ff00';",
    "UPDATE topics SET name = CAST(x'2fff' AS TEXT);",
    'UPDATE topics SET serialization_format = 7;',
    'UPDATE schema SET schema_version = -1;',
    'DELETE FROM schema;',
    'INSERT INTO schema VALUES (99, 5);',
    "UPDATE message_definitions SET encoding = 'x';",
    'DROP TABLE message_definitions;',
    'UPDATE messages SET topic_id = 99;',
    "UPDATE messages SET topic_id = 'x';",
    """INSERT INTO topics
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    SELECT NULL, '/t' || i, 'std_msgs/msg/String', 'cdr', '', '' FROM n;""",
    'DROP INDEX timestamp_idx;',
    'PRAGMA user_version = 1; PRAGMA application_id = 1;',
)
#: In place of zstd data: claims, bombs, and none.
PACKED: Final = (
    zstd_claim(3 << 30), zstd_claim(2**63), zstd_claim(200 << 20), bomb(300 << 20), b'', b'x',
    zstd_claim(1), zstandard.compress(b'not a bag'),
)  # fmt: skip
