# SPDX-License-Identifier: Apache-2.0
"""Topics of a bag that can be published here, and the Python classes of their messages."""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_full_topic_name import validate_full_topic_name

from segmentation_node.bags.bounds import shown
from segmentation_node.bags.messages import is_video
from segmentation_node.bags.topic import Topic
from segmentation_node.errors import quoted
from segmentation_node.images.video import can_decode
from segmentation_node.paths import with_extra

#: A type of ROS 2 messages; package and name become those of a Python module and class.
_MSGTYPE: Final = re.compile(r'([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)')


def playable(
    chosen: Iterable[Topic], remap: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[Topic, Any], dict[Topic, str]]:
    """Return the chosen topics with their message classes, and those that cannot be played."""
    topics: dict[Topic, Any] = {}
    skipped: dict[Topic, str] = {}
    types: dict[str, str] = {}
    for topic in chosen:
        name = remap.get(topic.name, topic.name)
        kind = name_problem(topic.name, name) or message_class(topic)
        if isinstance(kind, str) and is_video(topic):
            kind += '; --decode-video publishes its frames as images'
            kind += '' if can_decode() else f' (pip install {with_extra("demo")})'
        if not isinstance(kind, str) and types.setdefault(name, topic.msgtype) != topic.msgtype:
            kind = f'{shown(name)} is published with type {types[name]} already'
        if isinstance(kind, str):
            skipped[topic] = kind
        else:
            topics[topic] = kind
    return topics, skipped


def name_problem(old: str, name: str) -> str:
    """Return the reason why a topic cannot be published under a name, '' if it can be."""
    reason = ''
    if not name.isascii() or not name.isprintable():
        reason = 'only letters, digits, underscores and slashes'
    else:
        try:
            validate_full_topic_name(name if name.startswith('/') else f'/{name}')
        except InvalidTopicNameException as error:
            # The first line says why, the others repeat the name.
            reason = str(error).partition('\n')[0].strip(':')
    if not reason:
        return ''
    return (
        f'ROS 2 does not allow its name ({reason}); publish it under another one: '
        f"--remap '{shown(old)}:=/another_name'"
    )


def message_class(topic: Topic) -> Any:
    """Return the Python class of a topic's type, or the reason why there is none."""
    found = _MSGTYPE.fullmatch(topic.msgtype)
    if topic.serialization_format != 'cdr' or not found:
        return (
            f'{quoted(topic.msgtype)} in {quoted(topic.serialization_format)} is not a ROS 2 '
            f'message'
        )
    package, name = found.groups()
    try:
        # Looked up before: importing runs code, and a bag may name any module there is.
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        if not any(Path(place, 'msg', '__init__.py').is_file() for place in places or ()):
            return f'type {topic.shown_type} is not installed (no package {shown(package)})'
        return getattr(import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = shown(str(error), 300)
        return f'type {topic.shown_type} is not installed ({reason})'
