# SPDX-License-Identifier: Apache-2.0
"""Sections of ROS parameter files; warnings about files that ROS ignores for a node."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from segmentation_node.errors import ForeignError, printable, quoted
from segmentation_node.untrusted import read_yaml

#: Key of the parameters of a node.
PARAMETERS: Final = 'ros__parameters'
_MAX_LISTED: Final = 5


def ignored_file_warnings(args: Sequence[str], node_name: str) -> list[str]:
    """Return a warning for each parameter file in ROS arguments without a section for a node.

    Args:
        args: command line of the process, already accepted by ROS.
        node_name: fully qualified name, such as /robot/segmentation_node.
    """
    warnings = []
    for path in _files(args):
        try:
            sections = [section for section, _ in sections_of(read_yaml(path))]
        except ForeignError as error:
            warnings.append(f'not checked for parameters of {node_name}: {error}')
            continue
        if sections and not any(matches(section, node_name) for section in sections):
            some = ', '.join(quoted(section) for section in sections[:_MAX_LISTED])
            warnings.append(
                f'{printable(str(path), 300)} has no parameters for {node_name}, only for {some}: '
                f'the whole file is ignored; rename the section to {node_name} or /**'
            )
    return warnings


def _files(args: Sequence[str]) -> Iterator[Path]:
    """Yield the parameter files between --ros-args and --."""
    in_ros_args = False
    for flag, value in zip(args, [*args[1:], ''], strict=True):
        if flag in ('--ros-args', '--'):
            in_ros_args = flag == '--ros-args'
        elif in_ros_args and flag == '--params-file':
            yield Path(value)


def sections_of(content: object, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield patterns of node names and their content; namespaces may be nested."""
    if not isinstance(content, dict):
        return
    for key, inner in content.items():
        if key == PARAMETERS:
            yield prefix or '/', inner
        else:
            yield from sections_of(inner, f'{prefix}/{str(key).strip("/")}')


def matches(section: str, node_name: str) -> bool:
    """Return whether a section, with * for a name and ** for any names, applies to a node."""
    pattern = ''.join(
        r'(/\w+)*' if part == '**' else '/' + r'\w+'.join(map(re.escape, part.split('*')))
        for part in section.split('/')[1:]
    )
    return re.fullmatch(pattern, node_name) is not None
