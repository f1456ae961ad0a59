# SPDX-License-Identifier: Apache-2.0
"""What a bag knows of a topic and of a message, whatever its storage."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from segmentation_node.bags.qos import Qos

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


class RawMessage(NamedTuple):
    """A serialized message: when it was recorded and, where the storage knows, when sent."""

    topic: Topic
    stamp_ns: int
    cdr: bytes
    sent_ns: int
