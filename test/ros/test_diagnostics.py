# SPDX-License-Identifier: Apache-2.0
"""Tests of the diagnostic status in each state of the node."""

import math
import time

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from diagnostic_msgs.msg import DiagnosticStatus

from segmentation_node.ros.diagnostics import SILENCE_S, NodeHealth

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def said(health: NodeHealth, state: str) -> tuple[bytes, str]:
    status = health.status('/camera/segmentation_node', state, None)
    return status.level, status.message


def test_a_node_that_loads_its_model_is_not_waiting_for_activation() -> None:
    health = NodeHealth()
    assert said(health, 'configuring') == (WARN, 'configuring ...')
    assert said(health, 'inactive') == (WARN, 'inactive: waiting for activation')


def test_a_refusal_is_reported_until_the_next_attempt() -> None:
    health = NodeHealth()
    health.note_refusal('no such model')
    assert said(health, 'unconfigured') == (ERROR, 'unconfigured: no such model')
    assert said(health, 'configuring') == (WARN, 'configuring ...')


def test_faulty_frames_are_reported_once() -> None:
    health = NodeHealth(last_arrival_s=math.inf, last_error='wrong step')
    health.accounts.arrive()
    health.accounts.settle('malformed')
    assert said(health, 'active') == (WARN, '1 frames malformed or failed: wrong step')
    assert said(health, 'active') == (OK, 'segmenting')


def test_silence_is_reported() -> None:
    health = NodeHealth(active_since_s=time.monotonic() - 2 * SILENCE_S)
    assert said(health, 'active') == (WARN, 'no image for 5 s')


def test_losses_in_transport_are_reported_with_the_remedy() -> None:
    health = NodeHealth(last_arrival_s=math.inf)
    assert said(health, 'active') == (OK, 'segmenting')
    for _ in range(99):
        health.accounts.arrive()
        health.accounts.settle('published')
    health.add_lost('/front/image', 1)
    assert said(health, 'active') == (OK, 'segmenting')
    health.add_lost('/front/image', 1)
    level, message = said(health, 'active')
    assert level == WARN
    assert message.startswith('2 of 101 frames sent in 30 s were lost in transport')
    status = health.status('/node', 'active', None, 'cure of {}'.format)
    values = {value.key: value.value for value in status.values}
    assert (values['lost'], values['received']) == ('2', '99')
    assert values['remedy'] == 'cure of /front/image'
