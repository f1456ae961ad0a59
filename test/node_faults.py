# SPDX-License-Identifier: Apache-2.0
"""Random requests and messages, many of them invalid, for a running node."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_process import Camera, image_message, isolated_environment, pixels_of

from segmentation_node.images.encodings import ENCODINGS
from segmentation_node.segmenter import Segmenter

#: Available transitions of each state by id, without shutdown.
OFFERED = {
    'unconfigured': {1: 'inactive'},
    'inactive': {2: 'unconfigured', 3: 'active'},
    'active': {4: 'inactive'},
}
NUMBERS = (0, 1, 2, 3, 4, 8, 10, 60, 99, 255)
#: Beginnings of Python's own errors when a signal interrupts its start.
STARTING = ('Fatal Python error: init_import_site', 'python: failed to set __main__')
LABELS = ('activate', 'destroy', '', 'on_error', 'x' * 5000, '\x1b[31m', 'transition_success')


def lifecycle(camera: Camera, count: int, seed: int = 0) -> Counter[str]:
    """Request random transitions while frames arrive; returns right and wrong responses."""
    probe, chance, found = camera.probe, random.Random(seed), Counter[str]()
    frame = image_message(np.zeros((32, 32, 3), np.uint8))
    state = probe.state()
    for _ in range(count):
        request = ChangeState.Request()
        if chance.random() < 0.8:
            request.transition.id = chance.choice(NUMBERS)
            after = OFFERED[state].get(request.transition.id)
        else:
            request.transition.label = chance.choice(LABELS)
            request.transition.id = 99
            after = (
                'active' if (state, request.transition.label) == ('inactive', 'activate') else None
            )
        camera.send(frame)
        done = bool(probe.call(ChangeState, 'change_state', request).success)
        found['right' if done == (after is not None) else 'wrong'] += 1
        state = after if after is not None else state
        if chance.random() < 0.1:
            found['right' if probe.state() == state else 'wrong'] += 1
    for _ in range(3):
        if state != 'active':
            number, state = next((n, s) for n, s in OFFERED[state].items() if n in (1, 3))
            assert probe.transition(number)
    return found


def parameter_values(good_models: list[str], bad_models: list[str]) -> list[tuple[str, Any]]:
    """Return names and values of parameters, valid and invalid ones of every kind."""
    return [
        *(('model', model) for model in (*good_models, *bad_models)),
        ('model', ''), ('model', '/'), ('model', 'x' * 100_000), ('model', '../..'),
        ('model', '\0'), ('model', '~nobody'), ('model', 'no/hub/at/all'), ('model', '\x1b[31m'),
        ('runtime', 'openvino'), ('runtime', 'auto'), ('runtime', 'abacus'), ('runtime', 7),
        ('device', 'cpu'), ('device', 'cuda:99'), ('device', ''), ('device', 'x' * 10_000),
        ('precision', 'fp32'), ('precision', 'auto'), ('precision', 'fp8'),
        ('input_size', [16384, 16384]), ('input_size', [0, 0]), ('input_size', [32, 48]),
        ('input_size', [1]), ('input_size', [-1, -1]), ('input_size', [2**62, 2**62]),
        ('input_size', ['a']), ('image_size', [16384, 16384]), ('image_size', [0, 0]),
        ('image_size', [33, 57]), ('label_scheme', ''), ('label_scheme', 'cityscapes19'),
        ('label_scheme', 'x' * 5000 + '.yaml'), ('label_scheme', '/proc/self/mem.yaml'),
        ('label_scheme', '/dev/zero.yaml'), ('label_scheme', '../x.yaml'),
        ('min_confidence', 0.5), ('min_confidence', 0.0), ('min_confidence', float('nan')),
        ('min_confidence', float('inf')), ('min_confidence', -1.0), ('min_confidence', 'high'),
        ('overlay_alpha', 0.3), ('overlay_alpha', float('nan')), ('max_rate_hz', 0.0),
        ('max_rate_hz', 1e300), ('max_rate_hz', float('nan')), ('max_image_pixels', 2**23),
        ('max_image_pixels', 0), ('max_image_pixels', 2**40), ('image_transport', 'pigeon'),
        ('cameras', []), ('cameras', ['a', 'a']), ('cameras', ['\n']), ('autostart', False),
        ('use_sim_time', False), ('no_such_parameter', 1), ('qos_overrides.x', 'y'),
    ]  # fmt: skip


def parameters(
    camera: Camera, values: list[tuple[str, Any]], count: int, seed: int = 0
) -> Counter[str]:
    """Set one or three random parameters at a time while frames arrive; counts the responses."""
    probe, chance, found = camera.probe, random.Random(seed), Counter[str]()
    frame = image_message(np.zeros((32, 48, 3), np.uint8))
    for _ in range(count):
        chosen = chance.sample(values, chance.choice((1, 1, 1, 3)))
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in chosen]
        )
        camera.send(frame)
        answers = probe.call(SetParameters, 'set_parameters', request).results
        found['answered' if len(answers) == len(chosen) else 'unanswered'] += 1
        for answer in answers:
            found['set' if answer.successful else 'refused'] += 1
            if not answer.successful and not answer.reason:
                found['without a reason'] += 1
    return found


def hostile_images(chance: random.Random) -> Any:
    """Return an Image message with a random error, or a valid but unusual one."""
    height, width = chance.choice((0, 1, 2, 31, 48, 2**16)), chance.choice((0, 1, 3, 64, 2**16))
    message = image_message(np.zeros((48, 64, 3), np.uint8))
    match chance.randrange(8):
        case 0:
            message.height, message.width = height, width
        case 1:
            message.encoding = chance.choice([*ENCODINGS, '', 'rgb9', '\x1b[2J', 'x' * 100_000])
        case 2:
            message.step = chance.choice((0, 1, 191, 193, 2**32 - 1))
        case 3:
            message.data = message.data[: chance.randrange(len(message.data))]
        case 4:
            message.height, message.width, message.step = 2**32 - 1, 2**32 - 1, 0
        case 5:
            message.is_bigendian = chance.randrange(256)
        case 6:
            message.header.frame_id = chance.choice(('', '\x1b[31m', 'x' * 100_000))
        case _:
            small = chance.choice((1, 2, 31, 33))
            message = image_message(np.zeros((small, 64 - small, 3), np.uint8))
    return message


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return data with some bytes changed, or truncated."""
    content = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(
        content[: chance.randrange(8, len(content))] if chance.random() < 0.3 else content
    )


def bombs() -> list[bytes]:
    """Return small files of huge images: one by its header only, one in fact."""
    claims = bytearray(cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    claims[16:24] = (2**31 - 1).to_bytes(4, 'big') * 2
    real = cv2.imencode(
        '.png', np.zeros((1023, 65535), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    return [bytes(claims), real[1].tobytes()]


def right_labels(camera: Camera, model: Path) -> float:
    """Return the share of pixels that the node labels like its model in fp32."""
    image = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    expected = Segmenter(str(model), runtime='openvino', precision='fp32').segment([image])
    found = pixels_of(camera.segment(image_message(image)))
    return float(np.mean(found == expected.labels[0]))


def signals(
    count: int, log: Path, *command: str, longest_s: float = 2.5, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Start a command (default: the node) repeatedly and send it a signal at a random time.

    Returns counts of signals and exit statuses, and descriptions of wrong ones.
    """
    chance, found, wrong = random.Random(seed), Counter[str](), list[str]()
    name, *arguments = command or ('segmentation_node',)
    run = [str(Path(sys.executable).parent / name), *arguments]
    # A shell makes its background jobs ignore SIGINT, and commands that they start inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in range(count):
        sent = chance.choice((signal.SIGINT, signal.SIGTERM))
        with log.open('w+b') as output:
            process = subprocess.Popen(
                run, env=isolated_environment(), stdout=output, stderr=subprocess.STDOUT
            )
            time.sleep(chance.uniform(0, longest_s))  # the moment is what is tested
            process.send_signal(sent)
            status = process.wait(60)
            output.seek(0)
            text = output.read().decode(errors='replace')
        found[f'{sent.name} {status}'] += 1
        # Python itself was still starting: a negative status, or its own fatal error. Its own
        # tracebacks are not those of this package.
        pythons = status == -sent or any(text.startswith(start) for start in STARTING)
        ours = '/segmentation_node/' in text.partition('Traceback')[2]
        if not (pythons or status in (0, 128 + sent)) or ours:
            wrong.append(f'{sent.name}: status {status}\n{text[-2000:]}')
    return found, wrong


def resident_mb(pid: int, what: str = 'VmRSS') -> float:
    """Return the memory of a process in MB."""
    lines = Path(f'/proc/{pid}/status').read_text(encoding='ascii').splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1000
