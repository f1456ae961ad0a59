# SPDX-License-Identifier: Apache-2.0
"""What a bag knows of a topic and of a message, whatever its storage."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from rosbags.interfaces import Qos

from segmentation_node.bags.bounds import shown

METADATA_FILE: Final = 'metadata.yaml'
#: The newest that Humble reads as well; Jazzy and later read it as their own.
METADATA_VERSION: Final = 8


@dataclass(frozen=True)
class Topic:
    """A recorded topic.

    `definition` is the text of the message type and of all types in it, in the language
    `definition_format` ('ros2msg', 'ros2idl', or '' where the bag holds none); `type_hash` is
    its RIHS01 hash or ''.
    """

    name: str
    msgtype: str
    definition: str = ''
    definition_format: str = ''
    type_hash: str = ''
    qos: tuple[Qos, ...] = ()
    serialization_format: str = 'cdr'
    #: Whether the bag has profiles for it that make no sense.
    qos_is_damaged: bool = field(default=False, compare=False)

    @property
    def shown(self) -> str:
        """Name as text for people: whoever made the bag chose it, control characters and all."""
        return shown(self.name)

    @property
    def shown_type(self) -> str:
        """Type as text for people."""
        return shown(self.msgtype)


class RawMessage(NamedTuple):
    """A serialized message: when it was recorded and, where the storage knows, when sent."""

    topic: Topic
    stamp_ns: int
    cdr: bytes
    sent_ns: int


class Storage(Protocol):
    """A readable bag; every method raises BagError where the bag is damaged."""

    @property
    def counts(self) -> Mapping[Topic, int]:
        """Number of messages of each topic."""

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        """All messages of some topics in the order in which they were recorded."""

    def close(self) -> None:
        """Let go of the files."""


class DataFile(Protocol):
    """One file of a recording, which is open only while it is read.

    `metadata` is the text of the metadata.yaml that the file holds a copy of, or ''.
    """

    counts: dict[Topic, int]
    metadata: str

    def messages(self, topics: set[Topic]) -> Iterator[RawMessage]:
        """All messages of some topics."""

    def close(self) -> None:
        """Remove what was made to read the file."""
