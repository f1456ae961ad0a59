# SPDX-License-Identifier: Apache-2.0
"""Reads the sqlite3 databases of every rosbag2 version, within bounds.

The reader of rosbags ignores unfinished transactions, computed columns and undeclared topics
(test_bag_libraries.py).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from segmentation_node.bags.bounds import (
    MAX_MESSAGE_BYTES,
    MAX_TEXT_BYTES,
    MAX_TOPICS,
    shown,
)
from segmentation_node.bags.qos import read_qos
from segmentation_node.bags.topic import ALL, RawMessage, Span, Topic
from segmentation_node.errors import BagError, quoted

#: Raised by the library on damaged data.
DAMAGED: Final = (apsw.Error, ValueError, MemoryError, OSError)
#: First bytes of the journal of an unfinished transaction.
_JOURNAL_MAGIC: Final = b'\xd9\xd5\x05\xf9\x20\xa1\x63\xd7'
#: Longest wait for another process that is writing.
_BUSY_MS: Final = 5000
#: Condition of messages in a span, and the largest integer of SQLite.
_IN_SPAN: Final = 'AND timestamp BETWEEN ? AND ?'
_LARGEST: Final = 2**63 - 1
#: Required columns, and those of later versions of rosbag2.
_TOPIC_COLUMNS: Final = ('id', 'name', 'type', 'serialization_format')
_LATER_COLUMNS: Final = ('offered_qos_profiles', 'type_description_hash')


class SqliteData:
    """One database; see `topic.DataFile`.

    An unfinished transaction is rolled back even without `salvage`. With `salvage`, messages of
    undeclared topics are skipped.
    """

    def __init__(self, path: Path, salvage: bool = False) -> None:
        self._path = path
        self._topics: dict[int, Topic] = {}
        self.counts: dict[Topic, int] = {}
        with self._connection() as connection:
            self._check_tables(connection)
            self._read_topics(connection)
            for topic_id, count in connection.execute(
                'SELECT topic_id, count(*) FROM messages GROUP BY topic_id'
            ):
                if topic_id in self._topics:
                    self.counts[self._topics[topic_id]] += count
                elif not salvage:
                    raise BagError(
                        f'{path} has {count} messages of topic {quoted(topic_id)}, which it does '
                        f'not declare: allow --salvage to read the others'
                    )
            self.metadata = self._read_metadata(connection)

    def messages(self, topics: set[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        ids = [topic_id for topic_id, topic in self._topics.items() if topic in topics]
        if not ids:
            return
        places = ','.join('?' * len(ids))
        query = (
            f'SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) '  # noqa: S608 (only question marks)
            f'{"" if span == ALL else _IN_SPAN} ORDER BY timestamp'
        )
        limits = () if span == ALL else (span.start_ns, min(span.end_ns - 1, _LARGEST))
        with self._connection() as connection:
            for topic_id, stamp_ns, cdr in connection.execute(query, (*ids, *limits)):
                topic = self._topics.get(topic_id)
                if topic is None or not isinstance(stamp_ns, int) or not isinstance(cdr, bytes):
                    raise ValueError(
                        f'a message of topic {quoted(topic_id)} has stamp {quoted(stamp_ns)} and '
                        f'data of type {type(cdr).__name__}'
                    )
                if len(cdr) > MAX_MESSAGE_BYTES:
                    raise ValueError(
                        f'a message of {topic.shown} has {len(cdr)} bytes, more than '
                        f'{MAX_MESSAGE_BYTES >> 20} MiB'
                    )
                yield RawMessage(topic, stamp_ns, cdr, stamp_ns)

    def time_range_ns(self) -> tuple[int, int] | None:
        with self._connection() as connection:
            query = 'SELECT min(timestamp), max(timestamp) FROM messages'
            first_ns, last_ns = connection.execute(query).fetchone() or (None, None)
        if not isinstance(first_ns, int) or not isinstance(last_ns, int):
            return None
        return first_ns, last_ns

    def close(self) -> None:
        """Do nothing: the database is open only while it is read."""

    @contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        """Open the database; errors on damaged data become BagError."""
        connection = None
        try:
            connection = self._open()
            yield connection
        except DAMAGED as error:
            raise self._damaged(error) from error
        finally:
            if connection is not None:
                connection.close(force=True)

    def _open(self) -> apsw.Connection:
        # A database without an unfinished transaction is read as it is, even from a read-only
        # folder; otherwise sqlite rolls the transaction back first.
        if self._unfinished():
            options, flags = '', apsw.SQLITE_OPEN_READWRITE
        else:
            options, flags = '?immutable=1', apsw.SQLITE_OPEN_READONLY
        uri = f'file:{quote(str(self._path.absolute()))}{options}'
        connection = apsw.Connection(uri, flags | apsw.SQLITE_OPEN_URI)
        connection.set_busy_timeout(_BUSY_MS)
        # A foreign database may contain code: views, computed columns, triggers.
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.execute('PRAGMA cell_size_check = ON')
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_MESSAGE_BYTES + MAX_TEXT_BYTES)
        return connection

    def _unfinished(self) -> bool:
        log, journal = (Path(f'{self._path}{suffix}') for suffix in ('-wal', '-journal'))
        if log.is_file() and log.stat().st_size:
            return True
        if not journal.is_file():
            return False
        with journal.open('rb') as stream:
            return stream.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC

    def _check_tables(self, connection: apsw.Connection) -> None:
        for table, columns in (
            ('topics', _TOPIC_COLUMNS),
            ('messages', ('id', 'topic_id', 'timestamp', 'data')),
        ):
            if not set(columns) <= self._columns(connection, table):
                raise ValueError(f'it has no table {table} with columns {", ".join(columns)}')

    def _columns(self, connection: apsw.Connection, table: str) -> set[str]:
        """Return the columns of a table; a view or a virtual table has none."""
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ? AND rootpage > 0",
            (table,),
        )
        if tables.fetchone() is None:
            return set()
        # Computed columns are hidden.
        return {str(name) for _, name, *_ in connection.execute(f'PRAGMA table_info({table})')}

    def _read_topics(self, connection: apsw.Connection) -> None:
        definitions = self._definitions(connection)
        there = self._columns(connection, 'topics')
        columns = [*_TOPIC_COLUMNS, *(c if c in there else "''" for c in _LATER_COLUMNS)]
        query = f'SELECT {", ".join(columns)} FROM topics ORDER BY id LIMIT {MAX_TOPICS + 1}'  # noqa: S608 (names of ours)
        for topic_id, *texts in connection.execute(query):
            if len(self._topics) >= MAX_TOPICS:
                raise ValueError(f'it declares more than {MAX_TOPICS} topics')
            name, msgtype, serialization, profiles, type_hash = _texts(texts, f'topic {topic_id}')
            definition, definition_format = definitions.get(msgtype, ('', ''))
            qos, qos_is_damaged = read_qos(profiles)
            topic = Topic(
                name, msgtype, definition, definition_format, type_hash, qos, serialization,
                qos_is_damaged,
            )  # fmt: skip
            self._topics[topic_id] = topic
            self.counts.setdefault(topic, 0)

    def _read_metadata(self, connection: apsw.Connection) -> str:
        if 'metadata' not in self._columns(connection, 'metadata'):
            return ''
        query = 'SELECT metadata FROM metadata ORDER BY id DESC LIMIT 1'
        row = connection.execute(query).fetchone()
        return row[0] if row is not None and isinstance(row[0], str) else ''

    def _definitions(self, connection: apsw.Connection) -> dict[str, tuple[str, str]]:
        """Return text and format of each type's first definition."""
        columns = ('topic_type', 'encoding', 'encoded_message_definition')
        if not set(columns) <= self._columns(connection, 'message_definitions'):
            return {}
        definitions: dict[str, tuple[str, str]] = {}
        query = (
            f'SELECT {", ".join(columns)} FROM message_definitions ORDER BY id '  # noqa: S608 (names of ours)
            f'LIMIT {MAX_TOPICS}'
        )
        for row in connection.execute(query):
            msgtype, encoding, definition = _texts(row, 'a message definition')
            definitions.setdefault(msgtype, (definition, encoding))
        return definitions

    def _damaged(self, error: Exception) -> BagError:
        reason = shown(f'{type(error).__name__}: {error}', 300)
        if isinstance(error, apsw.BusyError):
            return BagError(f'{self._path} is being written ({reason}); wait for its recorder')
        if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError) and self._unfinished():
            return BagError(
                f'{self._path} has an unfinished transaction that cannot be rolled back '
                f'({reason}); copy it and its journal into a folder with write permission'
            )
        return BagError(
            f'{self._path} is damaged or no bag ({reason}); copy it again, or let '
            f'"sqlite3 FILE .recover" save what a damaged .db3 file still holds'
        )


def _texts(values: Collection[Any], what: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f'{what} has {quoted(value)}, expected text')
        if len(value) > MAX_TEXT_BYTES:
            raise ValueError(f'{what} has a text of more than {MAX_TEXT_BYTES >> 20} MiB')
    return list(values)
