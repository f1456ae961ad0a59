# SPDX-License-Identifier: Apache-2.0
"""Topics and messages of a bag, the same for every storage."""

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
    `definition_format` ('ros2msg' or 'ros2idl'; '' without a definition); `type_hash` is its
    RIHS01 hash or ''.
    """

    name: str
    msgtype: str
    definition: str = ''
    definition_format: str = ''
    type_hash: str = ''
    qos: tuple[Qos, ...] = ()
    serialization_format: str = 'cdr'
    #: The bag has invalid profiles for it.
    qos_is_damaged: bool = field(default=False, compare=False)

    @property
    def shown(self) -> str:
        """Name for a terminal: without control characters, and of bounded length."""
        return shown(self.name)

    @property
    def shown_type(self) -> str:
        """Type for a terminal."""
        return shown(self.msgtype)


class RawMessage(NamedTuple):
    """A serialized message with the times of recording and, where known, of sending."""

    topic: Topic
    stamp_ns: int
    cdr: bytes
    sent_ns: int


class Span(NamedTuple):
    """Half-open range of stamps in nanoseconds; the default is all of them.

    The spans that a bag is cut into begin at the default's start and end at its end.
    """

    start_ns: int = -(2**63)
    end_ns: int = 2**64

    @property
    def is_first(self) -> bool:
        """True if no message is before it."""
        return self.start_ns <= ALL.start_ns

    @property
    def is_last(self) -> bool:
        """True if no message is after it."""
        return self.end_ns >= ALL.end_ns

    def includes(self, stamp_ns: int) -> bool:
        """Return whether a stamp is in the range."""
        return self == ALL or self.start_ns <= stamp_ns < self.end_ns

    def meets(self, first_ns: int, last_ns: int) -> bool:
        """Return whether a stamp from the first to the last one is in the range."""
        return self == ALL or (first_ns < self.end_ns and self.start_ns <= last_ns)


ALL: Final = Span()


class Storage(Protocol):
    """A readable bag; every method raises BagError where the bag is damaged."""

    @property
    def counts(self) -> Mapping[Topic, int]:
        """Number of messages of each topic."""

    def messages(self, topics: Collection[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        """All messages of some topics in a span, in the order in which they were recorded."""

    def time_range_ns(self) -> tuple[int, int] | None:
        """First and last stamp; None if messages are not in the order of their stamps."""

    def close(self) -> None:
        """Close the files."""


class DataFile(Protocol):
    """One file of a recording, which is open only while it is read.

    `metadata` is the file's copy of metadata.yaml, '' without one.
    """

    counts: dict[Topic, int]
    metadata: str

    def messages(self, topics: set[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        """All messages of some topics in a span."""

    def time_range_ns(self) -> tuple[int, int] | None:
        """First and last stamp; None if messages are not in the order of their stamps."""

    def close(self) -> None:
        """Remove temporary files."""
