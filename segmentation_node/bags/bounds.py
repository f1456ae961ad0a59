# SPDX-License-Identifier: Apache-2.0
"""Bounds on foreign input: a bag may claim any size, depth and text."""

import reprlib
import sys
from typing import Any, Final

import yaml

from segmentation_node.errors import BagError, one_line

#: The largest message that is read, in bytes; an uncompressed image of 8192 x 8192 fits.
MAX_MESSAGE_BYTES: Final = 256 << 20
#: The largest chunk of messages, uncompressed; rosbag2 writes chunks of about a megabyte.
MAX_CHUNK_BYTES: Final = 512 << 20
#: Messages that are held in memory to put overlapping chunks into order.
MAX_QUEUED_BYTES: Final = 2 << 30
#: Definitions, QoS profiles and the like of one topic.
MAX_TEXT_BYTES: Final = 4 << 20
MAX_METADATA_BYTES: Final = 8 << 20
MAX_QOS_BYTES: Final = 64 << 10
#: The description of a label scheme.
MAX_JSON_BYTES: Final = 1 << 20
MAX_TOPICS: Final = 10_000
MAX_FILES: Final = 10_000
MAX_YAML_DEPTH: Final = 20

_MAX_SHOWN: Final = 80
#: Characters of a line on stderr.
MAX_LINE: Final = 4000
_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _MAX_SHOWN
_Loader: Final[Any] = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def printable(text: str, most: int = _MAX_SHOWN) -> str:
    """Text for a terminal: without control characters, the middle of a long text left out."""
    if len(text) > most:
        text = f'{text[: 2 * most // 3]} ... {text[-(most // 3) :]}'
    return ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in text)


def quoted(value: object) -> str:
    """A foreign value as Python writes it, in at most about a line."""
    return printable(_REPR.repr(value), 2 * _MAX_SHOWN)


def tell(program: str, text: object) -> None:
    """Write what a command has to say to stderr, whatever a bag made it quote."""
    lines = f'{program}: {text}'.split('\n')
    print('\n'.join(printable(line, MAX_LINE) for line in lines), file=sys.stderr)


def parse_yaml(text: str, what: str, max_bytes: int) -> object:
    """Plain values, lists and dicts of a YAML document.

    Raises:
        BagError: no YAML, too long, too deep, or with aliases.
    """
    if len(text) > max_bytes:
        raise BagError(f'{what} is longer than {max_bytes} bytes, far more than it needs')
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise BagError(f'{what} has the alias {quoted(event.anchor)}; expected none')
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_YAML_DEPTH:
                raise BagError(f'{what} is nested deeper than {MAX_YAML_DEPTH} levels')
        content: object = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe one)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise BagError(f'{what} is no YAML ({printable(one_line(error), 300)})') from error
    return content
