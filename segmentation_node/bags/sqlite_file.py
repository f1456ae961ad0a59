# SPDX-License-Identifier: Apache-2.0
"""Writes the sqlite3 database of a rosbag2, with the tables of rosbags.

The writer of rosbags commits when it is closed: a killed process would lose everything
(test_bag_libraries.py).
"""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from segmentation_node.bags.qos import dump_qos
from segmentation_node.bags.topic import METADATA_VERSION, Topic

#: Messages per transaction, in bytes: each commit waits for the disk, and an open one is lost.
COMMIT_BYTES: Final = 4 << 20
#: Kept free in the database and its journal, so that a full disk leaves room for the metadata.
RESERVE_BYTES: Final = 64 << 10


class SqliteFile:
    """A database being written; see `writer.StorageFile`."""

    def __init__(self, path: Path) -> None:
        # No implicit transactions: `flush` commits.
        # The caller admits one thread at a time.
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # The journal keeps its size until the end.
        self._database.execute('PRAGMA journal_mode = PERSIST')
        self._database.executescript(Sqlite3Writer.SQLITE_SCHEMA)
        self._database.execute('CREATE TABLE reserve(data BLOB NOT NULL)')
        self._database.execute('INSERT INTO reserve VALUES (zeroblob(?))', (RESERVE_BYTES,))
        # Makes the journal as large as the reserve.
        self._database.execute('UPDATE reserve SET data = randomblob(?)', (RESERVE_BYTES,))
        self._ids: dict[Topic, int] = {}
        self._saved: dict[Topic, int] = {}
        self._pending: list[tuple[Topic, int, bytes]] = []
        self._pending_bytes = 0

    @property
    def message_counts(self) -> dict[Topic, int]:
        return dict(self._saved)

    @property
    def time_range_ns(self) -> tuple[int, int]:
        query = 'SELECT min(timestamp), max(timestamp) FROM messages'
        start_ns, end_ns = self._database.execute(query).fetchone()
        return start_ns or 0, end_ns or 0

    def add_topic(self, topic: Topic) -> None:
        # A row for each type; a topic copied from an older bag may have no definition.
        if all(topic.msgtype != other.msgtype or not other.definition for other in self._ids):
            # TEXT is UTF-8; a comment in a definition may be invalid UTF-8.
            definition = topic.definition.encode(errors='replace').decode()
            self._database.execute(
                'DELETE FROM message_definitions WHERE topic_type = ?', (topic.msgtype,)
            )
            self._database.execute(
                'INSERT INTO message_definitions VALUES (NULL, ?, ?, ?, ?)',
                (topic.msgtype, topic.definition_format, definition, topic.type_hash),
            )
        cursor = self._database.execute(
            'INSERT INTO topics VALUES (NULL, ?, ?, ?, ?, ?)',
            (
                topic.name,
                topic.msgtype,
                topic.serialization_format,
                dump_qos(topic.qos),
                topic.type_hash,
            ),
        )
        self._ids[topic] = int(cursor.lastrowid or 0)
        self._saved[topic] = 0

    def write(self, topic: Topic, stamp_ns: int, sent_ns: int, cdr: bytes) -> None:  # noqa: ARG002
        self._pending.append((topic, stamp_ns, cdr))
        self._pending_bytes += len(cdr)
        if self._pending_bytes >= COMMIT_BYTES:
            self.flush()

    def flush(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        rows = [(self._ids[topic], stamp_ns, cdr) for topic, stamp_ns, cdr in pending]
        self._database.execute('BEGIN')
        try:
            self._database.executemany('INSERT INTO messages VALUES (NULL, ?, ?, ?)', rows)
            self._database.execute('COMMIT')
        except BaseException:
            if self._database.in_transaction:
                self._database.execute('ROLLBACK')
            raise
        for topic, _, _ in pending:
            self._saved[topic] += 1

    def finish(self, metadata_yaml: str) -> None:
        self._database.execute('DROP TABLE IF EXISTS reserve')
        self._database.execute(
            'INSERT OR REPLACE INTO metadata VALUES (1, ?, ?)', (METADATA_VERSION, metadata_yaml)
        )

    def make_room(self) -> bool:
        # A rollback frees its space already.
        return False

    def close(self) -> None:
        with suppress(sqlite3.Error):  # an empty journal that remains is harmless
            self._database.execute('PRAGMA journal_mode = DELETE')
        self._database.close()
