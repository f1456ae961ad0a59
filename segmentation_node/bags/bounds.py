# SPDX-License-Identifier: Apache-2.0
"""Limits for foreign bags, which may claim any size, depth and text."""

import sys
from typing import Final

from segmentation_node.errors import printable

#: The largest message that is read, in bytes; an uncompressed image of 8192 x 8192 fits.
MAX_MESSAGE_BYTES: Final = 256 << 20
#: The largest chunk of messages, uncompressed; rosbag2 writes chunks of about a megabyte.
MAX_CHUNK_BYTES: Final = 512 << 20
#: Messages that are held in memory to put overlapping chunks into order.
MAX_QUEUED_BYTES: Final = 2 << 30
#: A text of one topic: definition or QoS profiles.
MAX_TEXT_BYTES: Final = 4 << 20
MAX_METADATA_BYTES: Final = 8 << 20
MAX_QOS_BYTES: Final = 64 << 10
MAX_TOPICS: Final = 10_000
MAX_FILES: Final = 10_000
#: Characters of a name in a message, and of a line on stderr.
MAX_SHOWN: Final = 80
MAX_LINE: Final = 4000


def shown(text: str, most: int = MAX_SHOWN) -> str:
    """Return foreign text on one line, without control characters and of bounded length."""
    return printable(text, most).translate(_ON_ONE_LINE)


def tell(program: str, text: object) -> None:
    """Write a message of a command to stderr, without control characters."""
    lines = f'{program}: {text}'.split('\n')
    print('\n'.join(shown(line, MAX_LINE) for line in lines), file=sys.stderr)


_ON_ONE_LINE: Final = str.maketrans('\n\t', 2 * '\N{REPLACEMENT CHARACTER}')
