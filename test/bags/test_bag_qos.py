# SPDX-License-Identifier: Apache-2.0
"""QoS in both spellings of rosbag2."""

import pytest
import yaml
from rosbags.interfaces import Qos

from segmentation_node.bags.qos import (
    CAMERA,
    INFINITE,
    LATCHED,
    RELIABLE,
    dump_qos,
    is_latched,
    qos_profile,
    read_qos,
)

JAZZY = """
- history: keep_last
  depth: 1
  reliability: best_effort
  durability: transient_local
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: automatic
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
HUMBLE = (
    JAZZY.replace('keep_last', '1')
    .replace('best_effort', '2')
    .replace('transient_local', '1')
    .replace('automatic', '1')
)


@pytest.mark.parametrize('text', [JAZZY, HUMBLE])
def test_names_and_numbers_mean_the_same(text: str) -> None:
    expected = qos_profile(depth=1, reliability='best_effort', durability='transient_local')
    assert read_qos(text) == ((expected,), False)
    assert is_latched(read_qos(text)[0])
    assert read_qos(text)[0][0].deadline == INFINITE


@pytest.mark.parametrize('qos', [RELIABLE, CAMERA, LATCHED, qos_profile(0, history='keep_all')])
def test_what_is_written_is_read(qos: Qos) -> None:
    assert read_qos(dump_qos((qos, RELIABLE))) == ((qos, RELIABLE), False)


def test_numbers_are_written_for_humble() -> None:
    (row,) = yaml.safe_load(dump_qos((LATCHED,)))
    assert (row['history'], row['depth'], row['reliability'], row['durability']) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    'text', ['', '[]', 'nonsense', '- 3', '- {history: 99}', '{', '- history']
)
def test_damaged_profiles_are_none(text: str) -> None:
    assert read_qos(text)[0] == ()
