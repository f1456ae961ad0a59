# SPDX-License-Identifier: Apache-2.0
"""Fault injection: invalid, hostile and interrupted input for node, tools and service.

    python test/faults.py --output faults_output          # an hour at most
    python test/faults.py --quick --output faults_output  # ten minutes
    python test/faults.py --only signals killed

Runs real processes and writes report.json and report.md. The exit status is 1 if a row failed.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import hostile_checkpoints
import node_faults
import numpy as np
import pytest
import torch
from ros_process import (
    Camera,
    NodeProcess,
    Probe,
    compressed_message,
    image_message,
    isolated_environment,
)

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.images.files import encode_jpeg, encode_png
from segmentation_node.processes import Child
from segmentation_node.ros.transport import SHARED_MEMORY
from segmentation_node.runtimes.machine import describe

HERE: Final = Path(__file__).parent
MODEL: Final = 'deeplabv3plus'


@dataclass
class Row:
    """Row of the report."""

    what: str
    asked: str
    measured: str = ''
    passed: bool = False
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Faults:
    """Fault injections; each method fills a row."""

    def __init__(self, scratch: Path, share: float) -> None:
        self._scratch, self._share = scratch, share
        self._tiny = _tiny_checkpoints(scratch)

    def _count(self, whole: int) -> int:
        return max(3, int(whole * self._share))

    def messages(self, row: Row) -> None:
        """Raw messages."""
        self._send(row, 'raw', node_faults.hostile_images)

    def compressed(self, row: Row) -> None:
        """Compressed messages."""
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        files = [encode_jpeg(picture), encode_png(picture)]
        self._send(
            row, 'compressed',
            lambda chance: compressed_message(node_faults.mutated(chance.choice(files), chance)),
        )  # fmt: skip

    def _send(self, row: Row, transport: str, make: Callable[[random.Random], Any]) -> None:
        """Send the same messages twice: the second time must not take more memory.

        Within one pass memory depends on the largest image that a forged header has asked for.
        """
        wanted = self._count(10_000)
        memory: tuple[list[float], list[float]] = ([], [])
        with self._node('messages', f'image_transport:={transport}') as (node, probe):
            camera = _camera(probe, transport)
            for half, series in enumerate(memory, 1):
                chance = random.Random(0)
                while (decoded := _decoded(probe)) < wanted * half // 2:
                    for _ in range(50):
                        camera.send(make(chance))
                        probe.executor.spin_once(timeout_sec=0.004)
                    series.append(node_faults.resident_mb(node.pid))
            counts = probe.settled()
            right = transport != 'raw' or node_faults.right_labels(camera, self._tiny[0]) > 0.98
        exact = counts['received'] == sum(counts.values()) - counts['received']
        growth = max(memory[1]) / max(memory[0]) - 1
        row.figures = {**counts, 'memory_mb': memory}
        row.measured = (
            f'{decoded} decoded, 0 ends, accounts {"exact" if exact else "wrong"}, memory '
            f'{100 * growth:+.1f} % when they came again, labels {"right" if right else "wrong"} '
            f'afterwards'
        )
        row.passed = exact and growth < 0.05 and right

    def lifecycle(self, row: Row) -> None:
        """Transitions."""
        with self._node('lifecycle') as (_, probe):
            found = node_faults.lifecycle(_camera(probe), self._count(1000))
        row.figures = dict(found)
        row.measured = f'{found["right"]} right answers, {found["wrong"]} wrong, 0 ends'
        row.passed = not found['wrong']

    def parameters(self, row: Row) -> None:
        """Parameters."""
        count = self._count(1000)
        values = node_faults.parameter_values([str(self._tiny[0])], [str(self._scratch)])
        with self._node('parameters') as (_, probe):
            found = node_faults.parameters(_camera(probe), values, count)
            counts = probe.settled()
        exact = counts['received'] == sum(counts.values()) - counts['received']
        row.figures = {**found, **counts}
        row.measured = (
            f'{count} calls: {found["set"]} set, {found["refused"]} refused, '
            f'{found["unanswered"]} unanswered, 0 ends, accounts {"exact" if exact else "wrong"}'
        )
        row.passed = exact and found['answered'] == count and not found['without a reason']

    def checkpoints(self, row: Row) -> None:
        """Checkpoints."""
        torch.set_num_threads(1)
        for folder in self._tiny:
            load_checkpoint(str(folder))
        kinds = list(hostile_checkpoints.kinds(*self._tiny))[:: 1 if self._share == 1 else 4]
        outcomes = [hostile_checkpoints.load(f, change, self._scratch) for _, f, change in kinds]
        ends = sum(not outcome.known for outcome in outcomes)
        looked_up = sum(outcome.looked_up for outcome in outcomes)
        seconds = max(outcome.seconds for outcome in outcomes)
        megabytes = max(outcome.megabytes for outcome in outcomes)
        row.measured = (
            f'{len(kinds)} kinds: {ends} ends, {looked_up} look-ups, at most {seconds:.1f} s and '
            f'{megabytes:.0f} MB'
        )
        row.passed = not ends and not looked_up and seconds < 5 and megabytes < 500

    def bags(self, row: Row) -> None:
        """Bags."""
        count = self._count(3000)
        report = _script('faults_bags.py', '--count', str(count), '--seconds', '1500')
        row.figures = report
        row.measured = (
            f'{report["count"]}: {report["tracebacks"]} tracebacks, {report["hangs"]} hangs, '
            f'{report["refused"]} refused, {report["read"]} read'
        )
        row.passed = not report['tracebacks'] and not report['hangs']

    def signals(self, row: Row) -> None:
        """Signals."""
        count = self._count(200)
        found, wrong = node_faults.signals(count, self._scratch / 'signals.txt')
        row.figures = {'statuses': dict(found), 'wrong': wrong}
        row.measured = f'{count}: {", ".join(f"{k}: {v}" for k, v in sorted(found.items()))}'
        row.passed = not wrong
        if wrong:
            row.measured += f'; {len(wrong)} wrong, such as {wrong[0][:200]!r}'

    def storage(self, row: Row) -> None:
        """Disks that are full or read-only."""
        outcomes = {}
        for name, environment in {
            'cache': {'XDG_CACHE_HOME': '/proc/nowhere'},
            'cache on a full disk': {'XDG_CACHE_HOME': '/dev/full'},
            'home': {'HOME': '/proc/nowhere', 'ROS_LOG_DIR': str(self._scratch)},
            'log': {'ROS_LOG_DIR': '/proc/nowhere'},
        }.items():
            outcomes[name] = self._masks_with(environment)
        row.figures = outcomes
        row.measured = '; '.join(f'{name}: {outcome}' for name, outcome in outcomes.items())
        row.passed = all(
            outcome == ('refused in one line' if name == 'log' else 'masks, no traceback')
            for name, outcome in outcomes.items()
        )

    def _masks_with(self, environment: dict[str, str]) -> str:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        log = self._scratch / 'storage.txt'
        try:
            with NodeProcess(log, '-p', f'model:={MODEL}', namespace='storage') as node:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
                if 'ROS_LOG_DIR' in environment and 'HOME' not in environment:
                    node.ended()
                    return (
                        'refused in one line'
                        if len(log.read_text().splitlines()) == 1
                        else (log.read_text())
                    )
                probe = Probe('storage')
                probe.wait_until_active()
                _camera(probe).segment(image_message(np.zeros((64, 96, 3), np.uint8)))
                probe.close()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        return 'a traceback' if 'Traceback' in log.read_text() else 'masks, no traceback'

    def images(self, row: Row) -> None:
        """Sizes and bombs."""
        sizes = [(1, 1), (1, 4096), (480, 640), (1080, 1920), (2160, 3840), (2048, 4096)]
        arguments = ('-p', f'model:={MODEL}', '-p', 'image_transport:=compressed')
        log = self._scratch / 'images.txt'
        with NodeProcess(log, *arguments, namespace='images') as node:
            probe = Probe('images')
            probe.wait_until_active()
            camera = _camera(probe, 'compressed')
            idle_mb = node_faults.resident_mb(node.pid, 'VmHWM')
            for count, data in enumerate(node_faults.bombs(), 1):
                camera.send(compressed_message(data, 'png'))
                probe.wait_for_malformed(count)
            for height, width in sizes:
                picture = np.zeros((height, width, 3), np.uint8)
                camera.segment(compressed_message(encode_png(picture), 'png'))
            above_mb = node_faults.resident_mb(node.pid, 'VmHWM') - idle_mb
            malformed = probe.settled()['malformed']
            probe.close()
        row.measured = (
            f'{len(sizes)} sizes and {malformed} bombs: {above_mb:.0f} MB above the idle node'
        )
        row.passed = above_mb < 1500 and malformed == len(node_faults.bombs())

    def killed(self, row: Row) -> None:
        """SIGKILL."""
        count, took_s = self._count(100), list[float]()
        probe = Probe('killed')
        frame = image_message(np.zeros((64, 96, 3), np.uint8))
        ours, theirs = _mapped(os.getpid()), set[str]()
        camera: Camera | None = None  # one camera for all nodes, as on a vehicle
        for _ in range(count):
            started_s = time.monotonic()
            log = self._scratch / 'killed.txt'
            with NodeProcess(log, '-p', f'model:={MODEL}', namespace='killed') as node:
                camera = camera or _quick_camera(probe)
                camera.masks.clear()
                probe.wait_for('a mask', partial(_answered, camera, frame))
                took_s.append(time.monotonic() - started_s)
                theirs |= _mapped(node.pid) - ours
                os.kill(node.pid, signal.SIGKILL)
                node.ended()
        time.sleep(3)  # segments that a starting process may not have locked yet are kept
        log = self._scratch / 'killed.txt'
        with NodeProcess(log, '-p', f'model:={MODEL}', namespace='killed') as node:
            probe.diagnostics.clear()
            probe.wait_until_active()
            left = sorted(_segments() & theirs)
            self._kill_others(probe, self._count(50))
        probe.close()
        row.figures = {'seconds_to_first_mask': took_s, 'segments_left': left}
        row.passed = not left and float(np.median(took_s)) < 3
        row.measured = (
            f'{count} of the node: first mask after {np.median(took_s):.1f} s '
            f'(at most {max(took_s):.1f}), {len(left)} segments left in /dev/shm; masks '
            f'go on after {self._count(50)} of camera and subscriber'
        )

    def _kill_others(self, probe: Probe, count: int) -> None:
        """Kill camera and subscriber repeatedly; masks must continue each time."""
        picture = self._scratch / 'picture.png'
        picture.write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
        room, target = 'segmentation_node.benchmark', f'{probe.target}/label_mask'
        commands = [
            ['image_publisher', str(picture), '--topic', '/killed/image', '--rate-hz', '30'],
            ['mask_subscriber', str(self._scratch / 'times'), '--label-mask', target],
        ]
        for _ in range(count):
            before = int(probe.report()['published'])
            children = [
                Child(
                    command[0],
                    [sys.executable, '-m', f'{room}.{command[0]}', *command[1:]],
                    self._scratch / f'{command[0]}.txt',
                    isolated_environment(),
                )
                for command in commands
            ]
            probe.wait_for('masks', partial(_published_more, probe, before))
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
                child.stop()

    def uploads(self, row: Row) -> None:
        """Uploads."""
        fuzzed, many = str(self._count(10_000)), str(self._count(500))
        report = _script('faults_web.py', '--fuzzed', fuzzed, '--slow', many, '--at-once', many)
        row.figures = report
        failures = [failure for part in report['attacks'] for failure in part['failures']]
        slowest_s = max(part['honest_max_s'] or 0 for part in report['attacks'])
        parts = ', '.join('{what} {count}'.format_map(part) for part in report['attacks'])
        row.measured = (
            f'{parts}: {len(failures)} failures, honest clients served within {slowest_s:.1f} s'
        )
        row.passed = report['service_alive'] and not failures and not report['errors_in_log']

    @contextmanager
    def _node(self, namespace: str, *parameters: str) -> Iterator[tuple[NodeProcess, Probe]]:
        """Run a node with a small model; it must still be alive at the end."""
        arguments = [a for p in (f'model:={self._tiny[0]}', *parameters) for a in ('-p', p)]
        log = self._scratch / f'{namespace}.txt'
        with NodeProcess(log, *arguments, namespace=namespace) as node:
            probe = Probe(namespace)
            probe.wait_until_active()
            yield node, probe
            probe.next_diagnostics()
            probe.close()
            if node.interrupt() != 0 or 'Traceback' in log.read_text(errors='replace'):
                raise RuntimeError(f'the node did not end well: {log.read_text()[-2000:]}')


ROWS: Final = {
    'messages': Row('fuzzed raw messages', '10,000 decoded, 0 ends, accounts exact, memory flat '
                    '(5 %), labels right afterwards'),
    'compressed': Row('fuzzed compressed messages', 'the same'),
    'lifecycle': Row('lifecycle requests, legal and illegal', '1,000: 0 ends, right answers'),
    'parameters': Row('parameter sets, good and bad', '1,000: 0 ends, every frame has a fate'),
    'checkpoints': Row('hostile checkpoints and schemes', '150 kinds: 0 ends, 0 look-ups, 5 s, '
                       '500 MB'),
    'bags': Row('damaged and hostile bags', '3,000: 0 tracebacks, 0 hangs'),
    'signals': Row('signals at random times', '200: 0, 130 or 143, 0 tracebacks'),
    'storage': Row('cache, home and log that cannot be written', 'masks go on, or one line'),
    'images': Row('images of 1 x 1 to the limit, bombs', 'at most 1.5 GB above the idle node'),
    'killed': Row('kill -9', '100: back in 3 s, nothing left in /dev/shm'),
    'uploads': Row('uploads: fuzzed, slow, at once', '10,000, 500, 500: 0 5xx but 503, honest '
                   'clients within 2 s'),
}  # fmt: skip


def _tiny_checkpoints(scratch: Path) -> list[Path]:
    """Return the DeepLabV3+ and Mask2Former checkpoints of the tests, with random weights."""
    found = scratch / 'tiny'
    code = (
        'import shutil\n'
        f'def test_copy(tiny_checkpoint, tiny_mask2former):\n'
        f'    shutil.copytree(tiny_checkpoint, {str(found / "smp")!r})\n'
        f'    shutil.copytree(tiny_mask2former, {str(found / "mask2former")!r})\n'
    )
    copying = scratch / 'test_copying.py'
    copying.write_text(code, encoding='utf-8')
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'conftest', '-c', os.devnull,
               '--rootdir', str(scratch), str(copying)]  # fmt: skip
    environment = {**os.environ, 'PYTHONPATH': str(HERE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != pytest.ExitCode.OK:
        raise RuntimeError(f'no small checkpoints could be created: {done.stdout[-1000:]}')
    return [found / 'smp', found / 'mask2former']


def _camera(probe: Probe, transport: str = 'raw') -> Camera:
    if transport == 'raw':
        return probe.connect()
    sample = compressed_message(encode_png(np.zeros((32, 32, 3), np.uint8)), 'png')
    return probe.connect('image/compressed', sample=sample)


def _quick_camera(probe: Probe) -> Camera:
    return Camera(probe, probe.publisher(), probe.collect('label_mask'))


def _answered(camera: Camera, frame: Any) -> bool:
    if not camera.masks:
        camera.send(frame)
    return bool(camera.masks)


def _published_more(probe: Probe, than: int) -> bool:
    return int(probe.report()['published']) > than


def _decoded(probe: Probe) -> int:
    counts = probe.report()
    idle = int(counts['superseded']) + int(counts['not_wanted']) + int(counts['in_flight'])
    return int(counts['received']) - idle + int(counts['in_flight'])


def _segments() -> set[str]:
    return {p.name for p in SHARED_MEMORY.glob('fastrtps_*[0-9a-f]') if 'port' not in p.name}


def _mapped(pid: int) -> set[str]:
    maps = Path(f'/proc/{pid}/maps').read_text(encoding='utf-8')
    return {name for name in _segments() if name in maps}


def _script(name: str, *arguments: str) -> Any:
    """Return the JSON report of another script in this folder."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *arguments],
        env=isolated_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def _markdown(rows: Sequence[Row]) -> str:
    lines = ['| what | asked | measured | |', '| --- | --- | --- | --- |']
    lines += [
        f'| {row.what} | {row.asked} | {row.measured} | {"passed" if row.passed else "FAILED"} |'
        for row in rows
    ]
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the selected rows; returns exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--quick', action='store_true', help='run a tenth of each row')
    parser.add_argument('--only', nargs='+', choices=ROWS, help='run only these rows')
    parser.add_argument('--output', type=Path, default=Path('faults_output'))
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix='faults.') as scratch:
        faults = Faults(Path(scratch), 0.1 if args.quick else 1.0)
        for name in args.only or ROWS:
            row, started_s = ROWS[name], time.monotonic()
            try:
                with redirect_stdout(io.StringIO()):  # logs of nodes
                    getattr(faults, name)(row)
            except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 (the row tells)
                row.measured = f'{type(error).__name__}: {error}'[:500]
            row.seconds = time.monotonic() - started_s
            rows.append(row)
            print(f'{"passed" if row.passed else "FAILED"}  {row.what}: {row.measured} '
                  f'[{row.seconds:.0f} s]', flush=True)  # fmt: skip
    report = {'machine': asdict(describe()), 'rows': [asdict(row) for row in rows]}
    (args.output / 'report.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
    (args.output / 'report.md').write_text(_markdown(rows), encoding='utf-8')
    return 0 if all(row.passed for row in rows) else 1


if __name__ == '__main__':
    sys.exit(main())
