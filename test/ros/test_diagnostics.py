# SPDX-License-Identifier: Apache-2.0
"""Tests of the diagnostic status in each state of the node."""

import math
import time

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from diagnostic_msgs.msg import DiagnosticStatus

from segmentation_node.ros.diagnostics import SILENCE_S, Health

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def said(health: Health, state: str) -> tuple[bytes, str]:
    status = health.status('/camera/segmentation_node', state, None)
    return status.level, status.message


def test_a_node_that_loads_its_model_does_not_wait_to_be_activated() -> None:
    health = Health()
    assert said(health, 'configuring') == (WARN, 'configuring ...')
    assert said(health, 'inactive') == (WARN, 'inactive: waits to be activated')


def test_a_refusal_is_said_until_the_next_attempt() -> None:
    health = Health()
    health.refuse('no such model')
    assert said(health, 'unconfigured') == (ERROR, 'unconfigured: no such model')
    assert said(health, 'configuring') == (WARN, 'configuring ...')


def test_frames_that_went_wrong_are_said_once() -> None:
    health = Health(last_arrival_s=math.inf, last_error='wrong step')
    health.accounts.arrive()
    health.accounts.settle('malformed')
    assert said(health, 'active') == (WARN, '1 frames went wrong: wrong step')
    assert said(health, 'active') == (OK, 'segmenting')


def test_silence_is_said() -> None:
    health = Health(active_since_s=time.monotonic() - 2 * SILENCE_S)
    assert said(health, 'active') == (WARN, 'no image for 5 s')


def test_losses_in_transport_are_said_with_the_remedy() -> None:
    health = Health(last_arrival_s=math.inf)
    assert said(health, 'active') == (OK, 'segmenting')
    for _ in range(99):
        health.accounts.arrive()
        health.accounts.settle('published')
    health.lose('/front/image', 1)
    assert said(health, 'active') == (OK, 'segmenting')
    health.lose('/front/image', 1)
    level, message = said(health, 'active')
    assert level == WARN
    assert message.startswith('2 of 101 frames sent in 30 s were lost in transport')
    status = health.status('/node', 'active', None, 'cure of {}'.format)
    values = {value.key: value.value for value in status.values}
    assert (values['lost'], values['received']) == ('2', '99')
    assert values['remedy'] == 'cure of /front/image'
