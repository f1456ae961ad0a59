# SPDX-License-Identifier: Apache-2.0
"""No request or message ends the node, and every frame is counted."""

import fcntl
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import node_faults
import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from ros_process import (
    Camera,
    NodeProcess,
    Probe,
    compressed_message,
    forbidden_by_policy,
    image_message,
)
from sensor_msgs.msg import CompressedImage

from segmentation_node.images.files import encode_png
from segmentation_node.ros.transport import SHARED_MEMORY, remove_dead_segments


@pytest.fixture
def node(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    with NodeProcess(
        tmp_path / 'log.txt', '-p', f'model:={tiny_checkpoint}', namespace='robust'
    ) as process:
        yield process


@pytest.fixture
def camera(node: NodeProcess) -> Iterator[Camera]:
    probe = Probe('robust')
    probe.wait_until_active()
    yield probe.connect()
    probe.close()


def labels_are_right(camera: Camera, model: Path) -> None:
    assert node_faults.right_labels(camera, model) > 0.99  # bf16 is as good


def test_transitions_that_are_not_possible_are_refused(
    camera: Camera, node: NodeProcess, tiny_checkpoint: Path
) -> None:
    for wrong in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 0, 99):
        assert not camera.probe.transition(wrong)
    assert 'transition 3 rejected: the node is active; available: deactivate (4)' in (
        node.log_text()
    )
    found = node_faults.lifecycle(camera, 60)
    assert found['right'] >= 60
    assert not found['wrong']
    labels_are_right(camera, tiny_checkpoint)


def test_a_lifecycle_manager_brings_it_up_and_down(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The requests of Nav2's manager, each followed by a check of the state."""
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', 'autostart:=false')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='led') as node:
        probe = Probe('led')
        for transition, state in (
            (Transition.TRANSITION_CONFIGURE, 'inactive'),
            (Transition.TRANSITION_ACTIVATE, 'active'),
            (Transition.TRANSITION_DEACTIVATE, 'inactive'),
            (Transition.TRANSITION_CLEANUP, 'unconfigured'),
            (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'finalized'),
        ):
            assert probe.transition(transition)
            assert probe.state() == state
        assert not probe.transition(Transition.TRANSITION_CONFIGURE)
        assert 'the node is finalized; available: none' in node.log_text()
        assert node.interrupt() == 0
        probe.close()


def test_parameters_of_all_kinds_are_set_or_refused(
    camera: Camera, node: NodeProcess, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    deep = tmp_path / 'deep'
    deep.mkdir()
    (deep / 'config.json').write_text('[' * 100_000)
    digits = tmp_path / 'digits'
    digits.mkdir()
    (digits / 'config.json').write_text(json.dumps({'id2label': {'9' * 5000: 'road'}}))
    (digits / 'model.safetensors').touch()
    bad = [str(deep), str(digits), str(tmp_path)]
    values = node_faults.parameter_values([str(tiny_checkpoint)], bad)
    found = node_faults.parameters(camera, values, 80)
    assert found['answered'] == 80
    assert found['set']
    assert found['refused']
    assert not found['without a reason']
    assert 'Traceback' not in node.log_text()
    for name, value in (
        ('model', str(tiny_checkpoint)), ('input_size', [0, 0]), ('label_scheme', ''),
        ('min_confidence', 0.0), ('precision', 'auto'), ('runtime', 'auto'),
    ):  # fmt: skip
        assert camera.probe.set_parameter(name, value).successful
    labels_are_right(camera, tiny_checkpoint)


def test_what_is_sent_is_segmented_or_counted(
    camera: Camera, node: NodeProcess, tiny_checkpoint: Path
) -> None:
    chance = random.Random(1)
    for _ in range(200):
        camera.send(node_faults.hostile_images(chance))
    counts = camera.probe.settled()
    assert counts['received'] == sum(counts.values()) - counts['received']
    assert counts['malformed']
    assert not counts['failed']
    labels_are_right(camera, tiny_checkpoint)
    text = node.log_text()
    assert '\x1b[2J' not in text
    assert len(text) < 500_000
    assert max(len(line) for line in text.splitlines()) < 3000


def test_bombs_cost_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', 'image_transport:=compressed')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='bombed') as node:
        probe = Probe('bombed')
        probe.wait_until_active()
        sample = compressed_message(encode_png(np.zeros((32, 32, 3), np.uint8)), 'png')
        camera = probe.connect('image/compressed', sample=sample)
        before = node_faults.resident_mb(node.pid, 'VmHWM')
        for count, data in enumerate(node_faults.bombs(), 1):
            camera.send(compressed_message(data, 'png'))
            probe.wait_for_malformed(count)
        assert probe.settled()['malformed'] == 2
        assert node_faults.resident_mb(node.pid, 'VmHWM') - before < 50
        assert 'has more than 8388608 pixels' in probe.diagnostics[-1]['last_error']
        assert camera.segment(CompressedImage(format='png', data=sample.data))
        probe.close()


def test_masks_that_do_not_come_are_an_error(camera: Camera) -> None:
    broken = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb9')

    def complained() -> bool:
        camera.send(broken)
        return any('no mask for 1' in d['message'] for d in camera.probe.diagnostics)

    camera.probe.wait_for('a complaint', complained)
    report = next(d for d in camera.probe.diagnostics if 'no mask for' in d['message'])
    assert report['level'] == '2'
    assert "unknown image encoding 'rgb9'" in report['message']
    camera.segment(image_message(np.zeros((48, 64, 3), np.uint8)))
    assert 'no mask for' not in camera.probe.next_diagnostics()['message']


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason='shared memory is not in the file system')
def test_a_node_that_is_killed_leaves_nothing_after_the_next_start(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ('-p', f'model:={tiny_checkpoint}')
    probe = Probe('killed')
    left: set[Path] = set()
    for _ in range(3):
        with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='killed') as node:
            probe.diagnostics.clear()
            probe.wait_until_active()
            assert not [path.name for path in left if path.exists()]
            maps, ours = (Path(f'/proc/{pid}/maps').read_text() for pid in (node.pid, 'self'))
            segments = (p for p in SHARED_MEMORY.glob('fastrtps_*') if str(p) in maps)
            left = {p for p in segments if 'port' not in p.name and str(p) not in ours}
            assert left
            os.kill(node.pid, signal.SIGKILL)
            assert node.ended() == -signal.SIGKILL
        for path in left:
            os.utime(path.with_name(f'{path.name}_el'), (0, 0))  # as if it were long ago
    probe.close()
    alive = SHARED_MEMORY / 'fastrtps_0123456789abcdef_el'
    with alive.open('wb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(alive, (0, 0))
        assert set(remove_dead_segments()) >= {path.name for path in left}
        assert alive.exists()
    assert alive.name.removesuffix('_el') in remove_dead_segments()


def test_a_second_node_of_its_name_is_told(
    camera: Camera, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with NodeProcess(
        tmp_path / 'second.txt', '-p', f'model:={tiny_checkpoint}', namespace='robust'
    ) as second:
        said = 'another node publishes on /robust/segmentation_node/label_mask'
        camera.probe.wait_for('a warning', lambda: said in second.log_text())
        camera.probe.wait_for(
            'a report', lambda: any(said in d['message'] for d in camera.probe.diagnostics)
        )


def test_the_policy_names_all_that_the_node_does(camera: Camera) -> None:
    """The SROS 2 policy allows all topics and services that a running node uses."""
    assert not forbidden_by_policy(camera.probe)


@pytest.mark.parametrize(
    ('environment', 'arguments', 'said'),
    [
        ({'ROS_LOG_DIR': '/proc/nowhere'}, (), 'Failed to create log directory'),
        ({'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce'}, (),
         'ROS_SECURITY_ENABLE is true, so nodes run only with security'),
        ({}, ('-r', '__node:=no name'), "Couldn't parse remap rule"),
        ({}, ('--no-such-option',), '--no-such-option'),
        ({}, ('-p', 'cameras:=[1, 2]'), 'cameras'),
        ({}, ('-p', 'input_size:=[16384, 16384]'), 'max_image_pixels is 8388608'),
    ],
)  # fmt: skip
def test_a_start_that_cannot_succeed_says_why(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / 'log.txt'
    with NodeProcess(log, *arguments, namespace='refused') as node:
        assert node.ended() == 1
    ours = [line for line in log.read_text().splitlines() if line.startswith('segmentation_node:')]
    assert len(ours) == 1
    assert said in ours[0]
    assert 'Traceback' not in log.read_text()


@pytest.mark.parametrize('command', [(), ('segment_bag', '--help'), ('export_model', '--help')])
def test_signals_at_any_time_end_it_well(tmp_path: Path, command: tuple[str, ...]) -> None:
    longest_s = 0.5 if command else 2.5
    _, wrong = node_faults.signals(8, tmp_path / 'log.txt', *command, longest_s=longest_s)
    assert not wrong, wrong[0]
