# SPDX-License-Identifier: Apache-2.0
"""Soak test: find growth of a node that is overloaded for hours.

    python test/soak.py --hours 2 --output soak_output

The camera is faster than the network and restarts occasionally; subscribers come and go; models
are replaced; stamps jump. Memory, threads, files and shared memory are sampled and plotted. The
exit status is 1 if one of them grows after the first minutes, frames get older, or masks stop.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import node_faults
import numpy as np
from ros_process import NodeProcess, Probe, image_message, isolated_environment
from sensor_msgs.msg import Image

from segmentation_node.images.files import encode_png
from segmentation_node.plotting import QUIET, new_figure, to_png
from segmentation_node.processes import Child

SAMPLE_S: Final = 5.0
#: Time until everything was used once.
WARM_UP_S: Final = 600.0
#: Periods of events, in seconds.
SUBSCRIBER_S: Final = 37.0
CAMERA_S: Final = 113.0
MODEL_S: Final = 181.0
MODELS: Final = ('deeplabv3plus', 'unet')
NAMESPACE: Final = 'soak'
#: Maximum growth per hour, in MB or counts.
LIMITS: Final = {'memory_mb': 1.0, 'threads': 0.5, 'files': 0.5, 'shared_mb': 0.5}


@dataclass
class Sample:
    """State of the node at one moment; `age_ms` is the 99th percentile from decoding to mask."""

    at_s: float
    memory_mb: float
    threads: int
    files: int
    shared_mb: float
    published: int
    age_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns exit status 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--hours', type=float, default=2.0)
    parser.add_argument('--rate-hz', type=float, default=60.0, help='of the camera')
    parser.add_argument('--size', type=int, nargs=2, default=(512, 256), metavar=('W', 'H'))
    parser.add_argument('--output', type=Path, default=Path('soak_output'))
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='soak.') as scratch:
        samples, log = _run(args, Path(scratch))
    rows = [vars(sample) for sample in samples]
    slopes, late = _slopes(samples), _ageing(samples)
    failed = [name for name, limit in LIMITS.items() if slopes[name] > limit]
    failed += ['age'] if late > 1.25 else []
    failed += ['masks'] if _masks_per_s(samples) < 1 else []
    failed += ['log'] if 'Traceback' in log else []
    report = {'per_hour': slopes, 'age_ratio': late, 'failed': failed, 'samples': rows}
    (args.output / 'report.json').write_text(json.dumps(report), encoding='utf-8')
    _plot(samples, args.output / 'soak.png')
    grown = ', '.join(f'{name} {slope:+.2f}' for name, slope in slopes.items())
    print(f'{samples[-1].at_s / 3600:.2f} h, {samples[-1].published} masks; per hour: {grown}; '
          f'age of the last quarter {late:.2f} times that of the first')  # fmt: skip
    print('FAILED: ' + ', '.join(failed) if failed else 'passed')
    return 1 if failed else 0


def _run(args: argparse.Namespace, scratch: Path) -> tuple[list[Sample], str]:
    picture = scratch / 'picture.png'
    shape = (args.size[1], args.size[0], 3)
    picture.write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, shape, np.uint8)))
    log, samples = scratch / 'node.txt', list[Sample]()
    with NodeProcess(log, '-p', f'model:={MODELS[0]}', namespace=NAMESPACE) as node:
        probe = Probe(NAMESPACE)
        probe.wait_until_active()
        start_s = time.monotonic()
        events = _Events(probe, picture, args.rate_hz, scratch)
        while (at_s := time.monotonic() - start_s) < 3600 * args.hours:
            events.until(at_s)
            next_s = start_s + at_s + SAMPLE_S
            while time.monotonic() < next_s:
                probe.executor.spin_once(timeout_sec=0.1)
            samples.append(_sample(node.pid, at_s, probe.diagnostics[-1]))
            del probe.diagnostics[:-2]
        events.close()
        node.interrupt()
        probe.close()
    return samples, log.read_text(errors='replace')


class _Events:
    """Scheduled events during the test."""

    def __init__(self, probe: Probe, picture: Path, rate_hz: float, scratch: Path) -> None:
        self._probe, self._log = probe, scratch / 'camera.txt'
        self._command = [
            sys.executable, '-m', 'segmentation_node.benchmark.image_publisher', str(picture),
            '--topic', f'/{NAMESPACE}/image', '--rate-hz', str(rate_hz),
        ]  # fmt: skip
        self._child: Child | None = None
        self._subscription: Any = None
        self._odd = probe.node.create_publisher(Image, 'image', 10)
        self._done = {'subscriber': -1, 'camera': -1, 'model': 0}

    def until(self, at_s: float) -> None:
        """Trigger all events due by a time."""
        for name, period_s in (
            ('subscriber', SUBSCRIBER_S), ('camera', CAMERA_S), ('model', MODEL_S),
        ):  # fmt: skip
            turn = int(at_s // period_s)
            if turn > self._done[name]:
                self._done[name] = turn
                getattr(self, f'_{name}')(turn)

    def _subscriber(self, turn: int) -> None:
        node = self._probe.node
        if self._subscription is not None:
            node.destroy_subscription(self._subscription)
        output = ('label_mask', 'overlay', 'color_mask')[turn % 3]
        topic = f'{self._probe.target}/{output}'
        self._subscription = node.create_subscription(Image, topic, lambda _: None, 1)
        # A frame with a negative stamp, one from the far future, and a malformed one.
        odd = image_message(np.zeros((64, 96, 3), np.uint8))
        for second in (-5, 2**31 - 1):
            odd.header.stamp.sec = second
            self._odd.publish(odd)
        odd.encoding = 'rgb9'
        self._odd.publish(odd)

    def _camera(self, _turn: int) -> None:
        self.close()
        self._child = Child('the camera', self._command, self._log, isolated_environment())

    def _model(self, turn: int) -> None:
        self._probe.set_parameters(model=MODELS[turn % len(MODELS)])

    def close(self) -> None:
        """End the camera."""
        if self._child is not None:
            self._child.stop()


def _sample(pid: int, at_s: float, report: dict[str, str]) -> Sample:
    process = Path(f'/proc/{pid}')
    maps = (process / 'maps').read_text(encoding='utf-8').splitlines()
    shared = {line.split()[-1] for line in maps if '/dev/shm/' in line}  # noqa: S108
    sizes = [Path(name).stat().st_size for name in shared if Path(name).exists()]
    return Sample(
        at_s,
        node_faults.resident_mb(pid),
        len(list((process / 'task').iterdir())),
        len(list((process / 'fd').iterdir())),
        sum(sizes) / 1e6,
        int(report['published']),
        float(report.get('total_p99_ms', 'nan')),
    )


def _after(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples after the first minutes, or after a third of a short run."""
    start_s = min(WARM_UP_S, samples[-1].at_s / 3)
    return [sample for sample in samples if sample.at_s >= start_s]


def _slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the growth of each value per hour: median slope of all pairs (Theil and Sen)."""
    later = _after(samples)
    hours = np.array([sample.at_s for sample in later]) / 3600
    first, second = np.triu_indices(len(later), 1)
    apart = hours[second] - hours[first]
    return {
        name: float(np.median((values[second] - values[first]) / apart))
        for name in LIMITS
        for values in [np.array([getattr(sample, name) for sample in later], float)]
    }


def _ageing(samples: Sequence[Sample]) -> float:
    """Return the ratio of the median mask age in the last quarter to that in the first."""
    ages = np.array([sample.age_ms for sample in _after(samples)])
    quarter = max(1, len(ages) // 4)
    return float(np.nanmedian(ages[-quarter:]) / np.nanmedian(ages[:quarter]))


def _masks_per_s(samples: Sequence[Sample]) -> float:
    """Return masks per second in the slowest interval between two camera restarts."""
    every = max(1, round(CAMERA_S / SAMPLE_S))
    return min(
        (later.published - sooner.published) / (later.at_s - sooner.at_s)
        for sooner, later in zip(samples, samples[every:] or samples[-1:], strict=False)
    )


def _plot(samples: Sequence[Sample], path: Path) -> None:
    names = (*LIMITS, 'age_ms')
    minutes = [sample.at_s / 60 for sample in samples]
    with new_figure(650, 800) as figure:
        panels = figure.subplots(len(names), 1, sharex=True)
        for axes, name in zip(panels, names, strict=True):
            values = [getattr(sample, name) for sample in samples]
            axes.plot(minutes, values, color=QUIET, linewidth=1)
            axes.set_ylabel(name.replace('_', ' '))
        panels[-1].set_xlabel('minutes')
        path.write_bytes(to_png(figure, 1.4))


if __name__ == '__main__':
    sys.exit(main())
