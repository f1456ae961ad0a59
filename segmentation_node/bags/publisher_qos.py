# SPDX-License-Identifier: Apache-2.0
"""QoS of replayed topics: as recorded, or from a file of overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rclpy.duration import Duration
from rclpy.qos import (
    InvalidQoSProfileException,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rosbags.interfaces import QosHistory, QosReliability

from segmentation_node.bags.qos import RELIABLE, is_latched
from segmentation_node.bags.topic import Topic
from segmentation_node.errors import SettingError, one_line, quoted
from segmentation_node.untrusted import read_yaml

#: Limit of messages that a publisher keeps: the depth in a bag may exceed the memory.
MAX_DEPTH: Final = 1000
_POLICIES: Final[Mapping[str, Any]] = {
    'history': QoSHistoryPolicy,
    'reliability': QoSReliabilityPolicy,
    'durability': QoSDurabilityPolicy,
    'liveliness': QoSLivelinessPolicy,
}
_DURATIONS: Final = ('deadline', 'lifespan', 'liveliness_lease_duration')
_KEYS: Final = (*_POLICIES, 'depth', *_DURATIONS, 'avoid_ros_namespace_conventions')
_MAX_SECONDS: Final = 2**31 - 1
_MAX_NANOSECONDS: Final = 10**9 - 1


def recorded_qos(topic: Topic) -> QoSProfile:
    """Return the QoS that the recorded publishers offered, the strongest if they differ.

    The depth is limited to MAX_DEPTH. Deadline, lifespan and liveliness applied to the live system
    and are left out.
    """
    offered = topic.qos or (RELIABLE,)
    reliable = any(qos.reliability != QosReliability.BEST_EFFORT for qos in offered)
    keep_all = all(qos.history == QosHistory.KEEP_ALL for qos in offered)
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_ALL if keep_all else QoSHistoryPolicy.KEEP_LAST,
        depth=min(max(qos.depth for qos in offered) or RELIABLE.depth, MAX_DEPTH),
        reliability=(
            QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
        ),
        durability=(
            QoSDurabilityPolicy.TRANSIENT_LOCAL
            if is_latched(offered)
            else QoSDurabilityPolicy.VOLATILE
        ),
    )


def read_overrides(path: Path) -> dict[str, QoSProfile]:
    """Read the profiles of topics from a YAML file, as `ros2 bag play` takes it.

    A profile replaces the recorded one completely; missing keys have the middleware's defaults.

    Raises:
        ForeignError: the file cannot be read.
        SettingError: it is not a map of profiles; names topic, key and the expected value.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SettingError(
            f'{path} is {quoted(content)}, expected a map from topic names to QoS profiles'
        )
    return {
        str(name): _profile(row, f'{path}, topic {quoted(name)}') for name, row in content.items()
    }


def _profile(row: Any, place: str) -> QoSProfile:
    try:
        if not isinstance(row, dict):
            raise TypeError(f'{quoted(row)} is not a QoS profile; expected {", ".join(_KEYS)}')
        return QoSProfile(**{_key(key): _value(key, value) for key, value in row.items()})
    except (ValueError, TypeError, InvalidQoSProfileException) as error:
        raise SettingError(f'{place}: {one_line(error)}') from error


def _key(key: Any) -> str:
    if key not in _KEYS:
        raise ValueError(f'unknown key {quoted(key)}; there are {", ".join(_KEYS)}')
    return str(key)


def _value(key: str, value: Any) -> Any:
    if key in _POLICIES:
        names = _POLICIES[key].short_keys()
        if value not in names:
            raise ValueError(f'{key} is {quoted(value)}, expected one of {", ".join(names)}')
        return _POLICIES[key].get_from_short_key(value)
    if key in _DURATIONS:
        if not isinstance(value, dict) or set(value) != {'sec', 'nsec'}:
            raise ValueError(f'{key} is {quoted(value)}, expected sec and nsec')
        return Duration(
            seconds=_number(f'sec of {key}', value['sec'], _MAX_SECONDS),
            nanoseconds=_number(f'nsec of {key}', value['nsec'], _MAX_NANOSECONDS),
        )
    if key == 'depth':
        return _number(key, value, MAX_DEPTH)
    if not isinstance(value, bool):
        raise ValueError(f'{key} is {quoted(value)}, expected true or false')
    return value


def _number(what: str, value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f'{what} is {quoted(value)}, expected a number from 0 to {most}')
    return value
