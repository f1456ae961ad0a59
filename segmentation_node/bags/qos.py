# SPDX-License-Identifier: Apache-2.0
"""Quality of service as rosbag2 records it with a topic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from segmentation_node.bags.bounds import MAX_QOS_BYTES
from segmentation_node.errors import ForeignError, quoted
from segmentation_node.untrusted import parse_yaml

#: What rmw calls infinite, in seconds and nanoseconds.
INFINITE: Final = (9223372036, 854775807)

#: The largest queue that DDS knows.
MAX_DEPTH: Final = 2**31 - 1
#: Seconds or nanoseconds; rcutils counts both in 64 bits.
MAX_TIME: Final = 2**64 - 1
#: Publishers of one topic.
MAX_PROFILES: Final = 1000

# Position is the number that rosbag2 wrote before metadata version 9, the name what it writes
# since (rmw/types.h).
HISTORY: Final = ('system_default', 'keep_last', 'keep_all', 'unknown')
RELIABILITY: Final = ('system_default', 'reliable', 'best_effort', 'unknown', 'best_available')
DURABILITY: Final = ('system_default', 'transient_local', 'volatile', 'unknown', 'best_available')
LIVELINESS: Final = (
    'system_default',
    'automatic',
    'manual_by_node',
    'manual_by_topic',
    'unknown',
    'best_available',
)


@dataclass(frozen=True)
class Qos:
    """One offered QoS profile; policies by name, durations as (seconds, nanoseconds)."""

    history: str = 'keep_last'
    depth: int = 10
    reliability: str = 'reliable'
    durability: str = 'volatile'
    deadline: tuple[int, int] = INFINITE
    lifespan: tuple[int, int] = INFINITE
    liveliness: str = 'automatic'
    liveliness_lease_duration: tuple[int, int] = INFINITE
    avoid_ros_namespace_conventions: bool = False

    @property
    def latched(self) -> bool:
        """Whether late subscribers get what was published before they came."""
        return self.durability == 'transient_local'


#: Matches every subscription, those of RViz, which asks for reliable, too.
RELIABLE: Final = Qos()
#: The same for large frames, of which old ones are of no use.
CAMERA: Final = Qos(depth=5)
#: What stays true: label information and the like.
LATCHED: Final = Qos(depth=1, durability='transient_local')


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Read `offered_qos_profiles` of any rosbag2 version; none where it makes no sense.

    A profile steers a replay at most; a bag whose profiles are damaged is still a good bag.
    """
    return read_qos(text)[0]


def read_qos(text: str) -> tuple[tuple[Qos, ...], bool]:
    """As `parse_qos`, with whether the text makes no sense."""
    try:
        rows = parse_yaml(text, max_bytes=MAX_QOS_BYTES) or ()
        if not isinstance(rows, Sequence) or len(rows) > MAX_PROFILES:
            return (), True
        return tuple(map(_parse_profile, rows)), False
    except (ForeignError, AttributeError, LookupError, TypeError, ValueError):
        return (), True


def dump_qos(profiles: tuple[Qos, ...]) -> str:
    """Write profiles with numbers, as every rosbag2 reads them since Foxy."""
    if not profiles:
        return ''
    rows = [
        {
            'history': HISTORY.index(qos.history),
            'depth': qos.depth,
            'reliability': RELIABILITY.index(qos.reliability),
            'durability': DURABILITY.index(qos.durability),
            'deadline': _duration(qos.deadline),
            'lifespan': _duration(qos.lifespan),
            'liveliness': LIVELINESS.index(qos.liveliness),
            'liveliness_lease_duration': _duration(qos.liveliness_lease_duration),
            'avoid_ros_namespace_conventions': qos.avoid_ros_namespace_conventions,
        }
        for qos in profiles
    ]
    text: str = yaml.safe_dump(rows, sort_keys=False)
    return text.strip()


def _parse_profile(row: Any) -> Qos:
    times = ('deadline', 'lifespan', 'liveliness_lease_duration')
    return Qos(
        history=_policy(row['history'], HISTORY),
        depth=_number(row['depth'], MAX_DEPTH),
        reliability=_policy(row['reliability'], RELIABILITY),
        durability=_policy(row['durability'], DURABILITY),
        liveliness=_policy(row['liveliness'], LIVELINESS),
        avoid_ros_namespace_conventions=bool(row['avoid_ros_namespace_conventions']),
        **{key: (_number(row[key]['sec']), _number(row[key]['nsec'])) for key in times},
    )


def _number(value: object, most: int = MAX_TIME) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f'{quoted(value)} is no number from 0 to {most}')
    return value


def _policy(value: int | str, names: tuple[str, ...]) -> str:
    name = names[value] if isinstance(value, int) and value >= 0 else value
    return name if name in names else 'unknown'


def _duration(sec_nsec: tuple[int, int]) -> dict[str, int]:
    return {'sec': sec_nsec[0], 'nsec': sec_nsec[1]}
