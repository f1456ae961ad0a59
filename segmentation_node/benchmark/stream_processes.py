# SPDX-License-Identifier: Apache-2.0
"""Nodes between a camera and a subscriber, each a separate process, over real DDS."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segmentation_node import topics
from segmentation_node.benchmark.input_frames import InputFrames
from segmentation_node.benchmark.measurements import Mask, Stream
from segmentation_node.benchmark.variants import Variant
from segmentation_node.processes import Child, DemoError, wait_for
from segmentation_node.ros.domain import environment_of, unused_domain
from segmentation_node.ros.transport import local_environment

#: Start-up timeout that allows for a download from the hub and the compilation of a graph.
START_PATIENCE_S: Final = 900.0
#: Timeout between two masks of the slowest node.
STALL_PATIENCE_S: Final = 300.0
#: Masks of each camera after the first one, before counting begins.
WARM_UP_MASKS: Final = 2
#: Prefix of the names of node processes.
NODE: Final = 'node'
SECOND_NS: Final = 10**9
#: Topics that the subscriber receives from each node; our node and the baseline publish them.
OUTPUTS: Final = (topics.LABEL_MASK, topics.COLOR_MASK, topics.OVERLAY)
#: Fast DDS with default settings, and with the profile for large frames.
DEFAULT, PROFILE = 'default', 'profile'
TRANSPORTS: Final = (DEFAULT, PROFILE)
_MEGABYTE: Final = 1e6
#: Stages of the node's diagnostics that pages show.
_STAGES: Final = ('wait', 'decode', 'infer', 'publish')


@dataclass(frozen=True)
class Setup:
    """Arrangement of cameras and nodes; `rate_hz` is the total rate of all cameras.

    Counting lasts at least `seconds`, and until every camera has `min_masks` masks. `transport` is
    one of TRANSPORTS.
    """

    variant: Variant
    device: str
    frames: InputFrames
    rate_hz: float
    seconds: float
    min_masks: int
    cameras: int = 1
    nodes: int = 1
    transport: str = DEFAULT


def camera_name(index: int) -> str:
    """Return the namespace of a camera."""
    return f'camera{index}'


def node_commands(setup: Setup) -> list[list[str]]:
    """Return the command line of each node."""
    model, device = setup.variant.model, setup.device
    # JSON strings are valid YAML strings, so a path is never parsed as another type.
    values = {'model': json.dumps(model), 'device': device}
    if setup.variant.is_common:
        start = ['-m', 'segmentation_node.benchmark.common_node']
    else:
        start = ['-c', 'from segmentation_node.ros.node_process import main; main()']
        values |= {'runtime': setup.variant.runtime, 'precision': setup.variant.precision}
    if setup.nodes < setup.cameras:
        values['cameras'] = json.dumps([camera_name(i) for i in range(setup.cameras)])
        namespaces = ['/']
    else:
        namespaces = [f'/{camera_name(i)}' for i in range(setup.nodes)]
    parameters = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
    return [
        [sys.executable, *start, '--ros-args', '-r', f'__ns:={namespace}', *parameters]
        for namespace in namespaces
    ]


def output_topics(setup: Setup, output: str) -> list[str]:
    """Return the topic of an output for each camera."""
    names = [camera_name(i) for i in range(setup.cameras)]
    if setup.nodes < setup.cameras:
        return [f'/{topics.NODE_NAME}/{name}/{output}' for name in names]
    return [f'/{name}/{topics.NODE_NAME}/{output}' for name in names]


class StreamProcesses:
    """Processes of one setup; a context manager that ends them."""

    def __init__(self, setup: Setup, log: Path, domain_id: int) -> None:
        self._setup, self._log = setup, log / '_'.join(setup.variant.key).replace('/', '_')
        self._environment = {
            **environment_of(domain_id),
            'ROS_LOG_DIR': str((log / 'ros').resolve()),
            'RCUTILS_COLORIZED_OUTPUT': '0',
        }
        #: Environment of all processes except our node, which sets its own profile.
        self._profile = local_environment(large_frames=setup.transport == PROFILE)
        self._stack = ExitStack()
        self._times = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / 'times.json'
        self._nodes: list[Child] = []

    def __enter__(self) -> 'StreamProcesses':
        """Start camera and subscriber and, once these are up, the nodes."""
        try:
            self._subscriber = self._child('subscriber', self._subscriber_command(), reports=True)
            self._camera = self._child('camera', self._camera_command(), reports=True)
            self._wait('camera and subscriber', self._is_up, START_PATIENCE_S)
            self.started_ns = time.monotonic_ns()
            self._nodes = [
                self._child(f'{NODE}{i}', command)
                for i, command in enumerate(node_commands(self._setup))
            ]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _child(self, name: str, command: Sequence[str], reports: bool = False) -> Child:
        log = self._log / f'{name}.log'
        ours = name.startswith(NODE) and not self._setup.variant.is_common
        environment = {**self._environment, **({} if ours else self._profile)}
        return self._stack.enter_context(Child(name, command, log, environment, reports))

    def _camera_command(self) -> list[str]:
        names = [f'/{camera_name(i)}/{topics.IMAGE}' for i in range(self._setup.cameras)]
        return [
            sys.executable, '-m', 'segmentation_node.benchmark.image_publisher',
            *map(str, self._setup.frames.images), '--rate-hz', str(self._setup.rate_hz),
            *(word for name in names for word in ('--topic', name)),
        ]  # fmt: skip

    def _subscriber_command(self) -> list[str]:
        label_masks, *others = (output_topics(self._setup, output) for output in OUTPUTS)
        return [
            sys.executable, '-m', 'segmentation_node.benchmark.mask_subscriber', str(self._times),
            *(word for name in label_masks for word in ('--label-mask', name)),
            *(word for names in others for name in names for word in ('--other', name)),
        ]  # fmt: skip

    def _is_up(self) -> bool:
        return bool(self._camera.report and self._subscriber.report)

    def _counts(self) -> list[int]:
        """Return the number of label masks received from each camera."""
        counts: list[int] = self._subscriber.report['masks']
        return counts

    def _status(self) -> dict[str, str]:
        """Return the diagnostics of the first node; empty if the node is not ours."""
        status: dict[str, dict[str, str]] = self._subscriber.report['status']
        return next(iter(status.values()), {})

    def _accounts(self) -> tuple[int | None, int | None]:
        """Return the frames received and lost by the nodes so far; None if these do not count."""
        if self._setup.variant.is_common:
            return None, None
        of_nodes: dict[str, dict[str, str]] = self._subscriber.report['status']
        received, lost = (
            sum(int(status[name]) for status in of_nodes.values() for name in names)
            for names in (('received', 'in_flight'), ('lost',))
        )
        return received, lost

    def _has_figures(self) -> bool:
        if self._setup.variant.is_common:
            return True
        all_reported = len(self._subscriber.report['status']) == self._setup.nodes
        return all_reported and bool(_stages(self._status()))

    def _check(self) -> None:
        for child in (self._camera, self._subscriber, *self._nodes):
            if child.exit_status is not None:
                raise child.failure()
        for status in self._subscriber.report.get('status', {}).values():
            if status['state'] != 'active' and status['last_error']:
                raise DemoError(f'the node cannot start: {status["last_error"]}')

    def _wait(
        self, what: str, done: Callable[[], bool], patience_s: float,
        sign_of_life: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        def checked() -> bool:
            self._check()
            return done()

        wait_for(
            checked, patience_s,
            lambda: DemoError(f'waited {patience_s:.0f} s for {what}; see {self._log}'),
            sign_of_life,
        )  # fmt: skip

    def warm_up(self) -> None:
        """Wait until every camera has received a few masks."""
        self._wait('a first mask', lambda: min(self._counts()) > WARM_UP_MASKS, START_PATIENCE_S)

    def measure(self, round_number: int) -> Stream:
        """Run for the measured interval, stop, and return the measurement."""
        others = [self._camera, self._subscriber]
        before, cpu_s, others_cpu_s = self._counts(), _cpu_s(self._nodes), _cpu_s(others)
        sent = self._camera.report['sent']
        from_ns = time.monotonic_ns()

        def enough() -> bool:
            fresh = [now - then for now, then in zip(self._counts(), before, strict=True)]
            passed_s = (time.monotonic_ns() - from_ns) / SECOND_NS
            return min(fresh) >= self._setup.min_masks and passed_s >= self._setup.seconds

        self._wait('masks', enough, self._setup.seconds + STALL_PATIENCE_S, self._counts)
        to_ns = time.monotonic_ns()
        sent = self._camera.report['sent'] - sent
        cpu_s, others_cpu_s = _cpu_s(self._nodes) - cpu_s, _cpu_s(others) - others_cpu_s
        memory = [_memory_mb(node.pid) for node in self._nodes]
        self._wait("the node's own figures", self._has_figures, STALL_PATIENCE_S)
        stages, (received, lost) = _stages(self._status()), self._accounts()
        self._subscriber.stop()  # writes the times
        rows = json.loads(self._times.read_text(encoding='utf-8'))
        setup = self._setup
        return Stream(
            *setup.variant.key, setup.frames.size, setup.cameras, setup.nodes, round_number,
            transport=setup.transport,
            rate_hz=setup.rate_hz,
            from_s=self._since_start_s(from_ns),
            to_s=self._since_start_s(to_ns),
            masks=[
                Mask(camera, self._since_start_s(sent_ns), self._since_start_s(received_ns))
                for camera, sent_ns, received_ns, _ in rows
            ],
            stamps_kept=sum(kept for *_, kept in rows) / len(rows),
            sent=sent,
            received=received,
            lost=lost,
            cpu_s=round(cpu_s, 3),
            others_cpu_s=round(others_cpu_s, 3),
            peak_rss_mb=[peak for peak, _ in memory],
            pss_mb=[pss for _, pss in memory],
            stages=stages,
        )  # fmt: skip

    def _since_start_s(self, monotonic_ns: int) -> float:
        return round((monotonic_ns - self.started_ns) / SECOND_NS, 6)


def stream(setup: Setup, log: Path, round_number: int) -> Stream:
    """Start the processes, stream frames, and end the processes.

    Raises:
        DemoError: a process ended, or no masks arrived.
    """
    with StreamProcesses(setup, log, unused_domain()) as run:
        run.warm_up()
        return run.measure(round_number)


def _stages(status: Mapping[str, str]) -> dict[str, float]:
    """Return the milliseconds of each stage that a node reports."""
    names = [f'{stage}_{which}_ms' for stage in _STAGES for which in ('p50', 'p99')]
    return {name: float(status[name]) for name in names if name in status}


# The following figures are available on Linux only, as is ROS from PyPI.


def _cpu_s(processes: Sequence[Child]) -> float:
    """Return the CPU time of processes, including all threads and finished children."""
    return sum(_ticks(process.pid) for process in processes) / os.sysconf('SC_CLK_TCK')


def _ticks(pid: int) -> int:
    # The process name, in parentheses, may contain spaces.
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:15]))


def _memory_mb(pid: int) -> tuple[float, float]:
    """Return the peak resident memory and the current proportional set size, in MB."""
    status = Path(f'/proc/{pid}/status').read_text()
    shares = Path(f'/proc/{pid}/smaps_rollup').read_text()
    return _kilobytes(status, 'VmHWM'), _kilobytes(shares, 'Pss')


def _kilobytes(text: str, name: str) -> float:
    row = next(line for line in text.splitlines() if line.startswith(f'{name}:'))
    return round(int(row.split()[1]) * 1024 / _MEGABYTE, 1)
