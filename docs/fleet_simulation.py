# SPDX-License-Identifier: Apache-2.0
"""Command that estimates how label_fleet scales, from measured costs, for docs/fleets.md."""

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segmentation_node.cli import HelpFormatter, count, positive


@dataclass(frozen=True)
class Costs:
    """Measured costs of a fleet that labels parts of equal size."""

    #: Time of a frame on a worker, and frames of a part.
    frame_s: float = 0.1
    frames: int = 9000
    #: Time to load the model and to start the first part.
    start_s: float = 10.0
    #: Time of the command for each part: schedule it, and write its record. Parts wait for it.
    command_s: float = 0.02
    #: Bytes that a worker reads and writes for each part.
    part_bytes: float = 2e9
    #: Bandwidth of one worker, and of the storage for all of them, in bytes per second.
    worker_bandwidth: float = 200e6
    storage_bandwidth: float = 20e9

    def transfer_s(self, workers: int) -> float:
        """Return the time to read and write a part while all workers do the same."""
        share = self.storage_bandwidth / workers
        return self.part_bytes / min(self.worker_bandwidth, share)


def duration_s(costs: Costs, workers: int, parts: int) -> float:
    """Return the time that workers need for a number of parts.

    Each worker takes the next part when the command, which serves one at a time, hands it out.
    """
    part_s = costs.frames * costs.frame_s + costs.transfer_s(workers)
    ready = [costs.start_s] * workers
    heapq.heapify(ready)
    free_s = end_s = 0.0
    for _ in range(parts):
        free_s = max(heapq.heappop(ready), free_s) + costs.command_s
        end_s = free_s + part_s
        heapq.heappush(ready, end_s)
    return max(*ready, end_s) + costs.command_s


def efficiency(costs: Costs, workers: int, parts: int) -> float:
    """Return the share of the time of all workers that is spent on frames."""
    busy_s = parts * costs.frames * costs.frame_s
    return busy_s / (workers * duration_s(costs, workers, parts))


def table(costs: Costs, parts: int, fleets: Sequence[int]) -> str:
    """Return the table of the manual."""
    lines = ['| workers | hours | frames per second | efficiency |', '| --- | --- | --- | --- |']
    for workers in fleets:
        took_s = duration_s(costs, workers, parts)
        rate_hz = parts * costs.frames / took_s
        share = efficiency(costs, workers, parts)
        lines.append(f'| {workers:,} | {took_s / 3600:,.1f} | {rate_hz:,.0f} | {share:.2f} |')
    return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('--hours', type=positive, default=10_000, help='of recordings')
    parser.add_argument('--rate-hz', type=positive, default=15, help='of the cameras')
    parser.add_argument('--part-minutes', type=positive, default=10, help='of each part')
    parser.add_argument('--frame-s', type=positive, default=Costs.frame_s, help='for a frame')
    parser.add_argument('--command-s', type=positive, default=Costs.command_s, help='for a part')
    parser.add_argument('--frame-bytes', type=positive, default=400e3, help='read and written')
    parser.add_argument('--workers', type=count, nargs='+', default=[1, 10, 100, 1000])
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = _parser().parse_args(argv)
    frames = round(args.part_minutes * 60 * args.rate_hz)
    costs = replace(
        Costs(), frame_s=args.frame_s, frames=frames, command_s=args.command_s,
        part_bytes=frames * args.frame_bytes,
    )  # fmt: skip
    print(table(costs, round(args.hours * 60 / args.part_minutes), args.workers))


if __name__ == '__main__':
    main()
