# SPDX-License-Identifier: Apache-2.0
"""Quality of service as rosbag2 records it with a topic; the profiles are those of rosbags."""

from collections.abc import Iterable, Sequence
from typing import Final

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import dump_qos_v8, parse_qos

from segmentation_node.bags.bounds import MAX_QOS_BYTES
from segmentation_node.errors import ForeignError, quoted
from segmentation_node.untrusted import parse_yaml

#: The value of rmw for no limit.
INFINITE: Final = QosTime(sec=9223372036, nsec=854775807)

#: The largest queue that DDS supports.
MAX_DEPTH: Final = 2**31 - 1
#: Seconds or nanoseconds; rcutils counts both in 64 bits.
MAX_TIME: Final = 2**64 - 1
#: Publishers of one topic.
MAX_PROFILES: Final = 1000


def qos_profile(
    depth: int = 10,
    *,
    history: str = 'keep_last',
    reliability: str = 'reliable',
    durability: str = 'volatile',
) -> Qos:
    """Return a profile with these policies and without time limits."""
    return Qos(
        history=QosHistory[history.upper()],
        depth=depth,
        reliability=QosReliability[reliability.upper()],
        durability=QosDurability[durability.upper()],
        deadline=INFINITE,
        lifespan=INFINITE,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=INFINITE,
        avoid_ros_namespace_conventions=False,
    )


#: Matches every subscription, including those of RViz, which are reliable by default.
RELIABLE: Final = qos_profile()
#: For large frames, of which old ones are useless.
CAMERA: Final = qos_profile(depth=5)
#: For values that stay valid, as the description of the labels.
LATCHED: Final = qos_profile(depth=1, durability='transient_local')


def is_latched(profiles: Iterable[Qos]) -> bool:
    """Return whether late subscribers get earlier messages of at least one publisher."""
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in profiles)


def read_qos(text: str) -> tuple[tuple[Qos, ...], bool]:
    """Read `offered_qos_profiles` of any rosbag2 version.

    Returns:
        The profiles, none if one is invalid, and whether one is: profiles matter to a replay only,
        so a bag with invalid ones is read all the same.
    """
    try:
        # rosbags would recurse into nested YAML without a bound (test_bag_libraries.py).
        rows = parse_yaml(text, max_bytes=MAX_QOS_BYTES) or []
        if not isinstance(rows, Sequence) or len(rows) > MAX_PROFILES:
            return (), True
        return tuple(map(_checked, parse_qos(list(rows)))), False
    except (ForeignError, ReaderError, AttributeError, LookupError, TypeError, ValueError):
        return (), True


def _checked(qos: Qos) -> Qos:
    _check_number(qos.depth, MAX_DEPTH)
    for time in (qos.deadline, qos.lifespan, qos.liveliness_lease_duration):
        _check_number(time.sec, MAX_TIME)
        _check_number(time.nsec, MAX_TIME)
    return qos._replace(avoid_ros_namespace_conventions=bool(qos.avoid_ros_namespace_conventions))


def _check_number(value: object, most: int) -> None:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f'{quoted(value)} is not a number from 0 to {most}')


def dump_qos(profiles: Iterable[Qos]) -> str:
    """Write profiles with numbers, as every rosbag2 reads them since Foxy."""
    return dump_qos_v8(list(profiles))
