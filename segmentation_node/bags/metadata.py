# SPDX-License-Identifier: Apache-2.0
"""Metadata of a rosbag2: metadata.yaml, and the copy that a data file may hold.

The data files are the truth. Metadata lists the files of a recording and the number of messages at
its end; topics, types and profiles are read from the files.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from segmentation_node.bags.bounds import MAX_FILES, MAX_METADATA_BYTES, shown
from segmentation_node.bags.topic import METADATA_FILE
from segmentation_node.errors import BagError, ForeignError, quoted
from segmentation_node.untrusted import parse_yaml, read_yaml

#: Values of compression_mode; "storage" is MCAP's own.
COMPRESSION_MODES: Final = ('', 'none', 'storage', 'file', 'message')
#: Of a file's name, on most systems.
MAX_NAME_BYTES: Final = 255

_KEY: Final = 'rosbag2_bagfile_information'


class Metadata(NamedTuple):
    """Content of metadata.yaml that is used.

    `counts` are the messages of each topic, by its name; `messages_are_packed` says that each
    message is compressed.
    """

    files: list[str]
    messages_are_packed: bool
    counts: Mapping[str, int]


def read_metadata(folder: Path) -> Metadata:
    """Read metadata.yaml of a folder.

    Raises:
        BagError: it cannot be read, or names a compression that is not supported.
    """
    file = folder / METADATA_FILE
    try:
        information = _information(read_yaml(file, max_bytes=MAX_METADATA_BYTES))
        names = information['relative_file_paths']
        if not isinstance(names, list) or len(names) > MAX_FILES:
            raise ValueError(f'relative_file_paths is {quoted(names)}, expected a list of names')
        # Older versions of rosbag2 wrote them with the name of the folder before.
        files = [_file_name(name) for name in names]
        if len(set(files)) < len(files):
            raise ValueError(f'relative_file_paths names a file twice: {quoted(names)}')
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ForeignError) as error:
        reason = shown(' '.join(f'{type(error).__name__}: {error}'.split()), 300)
        raise BagError(
            f'{file} is not valid rosbag2 metadata ({reason}); "ros2 bag reindex {folder}" '
            f'rewrites it'
        ) from error
    return Metadata(files, _messages_are_packed(folder, information), _counts(information))


def says_packed_messages(file: Path, text: str) -> bool:
    """Return whether the metadata that a data file holds says that its messages are compressed.

    Invalid metadata is ignored, since a file can be read without it.

    Raises:
        BagError: they are, in a way that is not supported.
    """
    try:
        information = _information(parse_yaml(text, max_bytes=MAX_METADATA_BYTES))
    except (TypeError, ForeignError):
        return False
    return _messages_are_packed(file, information)


def _information(content: object) -> dict[str, object]:
    information = content.get(_KEY, content) if isinstance(content, dict) else content
    if not isinstance(information, dict):
        raise TypeError(f'{_KEY} is {quoted(information)}')
    return information


def _file_name(path: object) -> str:
    name = Path(path).name if isinstance(path, str) else ''
    if name in ('', '..') or '\0' in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise ValueError(f'relative_file_paths has {quoted(path)}, expected names of files')
    return name


def _messages_are_packed(path: Path, information: Mapping[str, object]) -> bool:
    mode = information.get('compression_mode') or ''
    mode = mode.lower() if isinstance(mode, str) else mode
    if mode not in COMPRESSION_MODES:
        raise BagError(
            f'{path} has compression mode {quoted(mode)}, expected one of '
            f'{", ".join(filter(None, COMPRESSION_MODES))}: "ros2 bag convert" rewrites it'
        )
    format_ = information.get('compression_format') or ''
    if mode in ('file', 'message') and format_ != 'zstd':
        raise BagError(
            f'{path} has compression format {quoted(format_)}, expected zstd: "ros2 bag convert" '
            f'rewrites it'
        )
    return mode == 'message'


def _counts(information: Mapping[str, object]) -> dict[str, int]:
    rows = information.get('topics_with_message_count')
    counts: dict[str, int] = {}
    for row in rows if isinstance(rows, list) else ():
        topic = row.get('topic_metadata') if isinstance(row, dict) else None
        name = topic.get('name') if isinstance(topic, dict) else None
        count = row.get('message_count') if isinstance(row, dict) else None
        if isinstance(name, str) and isinstance(count, int):
            counts[name] = counts.get(name, 0) + count
    return counts
