# SPDX-License-Identifier: Apache-2.0
"""Reads sqlite3 bags of every version, and compressed bags, with the rosbags library."""

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.interfaces import Qos as RosbagsQos
from rosbags.rosbag2 import Reader, ReaderError

from segmentation_node.bags.qos import Qos
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.errors import BagError

try:
    from apsw import Error as DatabaseError
except ImportError:  # older versions of rosbags read databases with the standard library
    from sqlite3 import Error as DatabaseError  # type: ignore[assignment]

#: rosbags has loaded one of these, which one depends on the versions of it and of Python.
_ZSTD: Final = ('zstandard', 'backports.zstd', 'compression.zstd')
#: What the library raises on damaged data: its own errors and those of whatever it calls.
DAMAGED: Final = (
    ReaderError,
    DatabaseError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    MemoryError,
    *(sys.modules[name].ZstdError for name in _ZSTD if name in sys.modules),
)
_FORMATS = {
    MessageDefinitionFormat.MSG: 'ros2msg',
    MessageDefinitionFormat.IDL: 'ros2idl',
    MessageDefinitionFormat.NONE: '',
}


class RosbagsStorage:
    """A bag that rosbags reads, one file or folder; see `reader.Storage`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader = Reader(self._path)
            self._reader.open()
        except DAMAGED as error:
            raise _damaged(self._path, error) from error
        self._connections = {
            _topic(connection, connection.ext): connection
            for connection in self._reader.connections
            if isinstance(connection.ext, ConnectionExtRosbag2)
        }
        self.counts = {topic: c.msgcount for topic, c in self._connections.items()}

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        topic_of = {self._connections[topic].id: topic for topic in topics}
        connections = [self._connections[topic] for topic in topics]
        if not connections:
            return
        try:
            for connection, stamp_ns, data in self._reader.messages(connections):
                yield RawMessage(topic_of[connection.id], stamp_ns, bytes(data), stamp_ns)
        except DAMAGED as error:
            raise _damaged(self._path, error) from error

    def close(self) -> None:
        self._reader.close()


def _topic(connection: Connection, ext: ConnectionExtRosbag2) -> Topic:
    return Topic(
        connection.topic,
        connection.msgtype,
        connection.msgdef.data,
        _FORMATS[connection.msgdef.format],
        connection.digest,
        tuple(_qos(profile) for profile in ext.offered_qos_profiles),
        ext.serialization_format,
    )


def _qos(qos: RosbagsQos) -> Qos:
    return Qos(
        qos.history.name.lower(),
        qos.depth,
        qos.reliability.name.lower(),
        qos.durability.name.lower(),
        (qos.deadline.sec, qos.deadline.nsec),
        (qos.lifespan.sec, qos.lifespan.nsec),
        qos.liveliness.name.lower(),
        (qos.liveliness_lease_duration.sec, qos.liveliness_lease_duration.nsec),
        qos.avoid_ros_namespace_conventions,
    )


def _damaged(path: Path, error: Exception) -> BagError:
    return BagError(
        f'{path} is damaged or no bag ({type(error).__name__}: {error}); copy it again, or let '
        f'"sqlite3 FILE .recover" save what a damaged .db3 file still holds'
    )
