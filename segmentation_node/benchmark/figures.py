# SPDX-License-Identifier: Apache-2.0
"""Statistics of a run's measurements by model, size and variant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final

from segmentation_node.benchmark.measurements import Calls, Key, Mask, Quality, Results, Stream
from segmentation_node.benchmark.timing import Spread, percentiles, rate_hz, spread
from segmentation_node.benchmark.variant_process import SEGMENT
from segmentation_node.benchmark.variants import COMMON

#: Minimum agreement with torch fp32 at which labels count as equal.
EQUAL: Final = 0.99


@dataclass(frozen=True)
class CallFigures:
    """Time of a call in milliseconds: wall clock, and CPU time of all cores."""

    wall_ms: Spread
    cpu_ms: Spread


@dataclass(frozen=True)
class StreamFigures:
    """Statistics over the rounds of one arrangement of nodes and cameras."""

    streams: Sequence[Stream]

    @cached_property
    def fps(self) -> Spread:
        """Masks per second of all cameras together, over the rounds."""
        return spread([sum(_rates_hz(stream)) for stream in self.streams])

    @cached_property
    def latency_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of the time from sending an image to receiving its mask."""
        p50, p99 = percentiles(
            [
                1000 * (mask.received_s - mask.sent_s)
                for stream in self.streams
                for mask in counted(stream)
            ],
            50,
            99,
        )
        return p50, p99

    @property
    def start_s(self) -> Spread:
        """Time from the start of the process to the reception of the first mask."""
        return spread([min(m.received_s for m in stream.masks) for stream in self.streams])

    @property
    def cpu_ms(self) -> float:
        """CPU time of the node per mask, over all cores."""
        return 1000 * sum(stream.cpu_s for stream in self.streams) / self._masks

    @property
    def others_cpu_ms(self) -> float:
        """CPU time of camera and subscriber per mask, over all cores."""
        return 1000 * sum(stream.others_cpu_s for stream in self.streams) / self._masks

    @property
    def _masks(self) -> int:
        return sum(len(counted(stream)) for stream in self.streams)

    @property
    def memory_mb(self) -> float:
        """Peak resident memory of all nodes."""
        return max(sum(stream.peak_rss_mb) for stream in self.streams)

    @property
    def own_memory_mb(self) -> float:
        """Memory of all nodes at the end, with shared pages counted once."""
        return max(sum(stream.pss_mb) for stream in self.streams)

    @property
    def stamps_kept(self) -> bool:
        """True if all masks carry the stamps of their images."""
        return all(stream.stamps_kept == 1 for stream in self.streams)

    @property
    def sent(self) -> int:
        """Number of frames that the cameras sent while masks were counted."""
        return sum(stream.sent for stream in self.streams)

    @property
    def lost_share(self) -> float:
        """Share of the frames sent that were lost in transport; NaN if no node counts them."""
        received, lost = (
            sum(getattr(stream, name) or 0 for stream in self.streams)
            for name in ('received', 'lost')
        )
        return lost / (received + lost) if received + lost else math.nan

    def stage_ms(self, stage: str) -> float:
        """Return the median over rounds of a stage's median; NaN if the node reports none."""
        name = f'{stage}_p50_ms'
        return spread([s.stages[name] for s in self.streams if name in s.stages]).median


def counted(stream: Stream) -> list[Mask]:
    """Return the masks received within the measured interval."""
    return [m for m in stream.masks if stream.from_s <= m.received_s <= stream.to_s]


def _rates_hz(stream: Stream) -> list[float]:
    """Return the masks per second of each camera."""
    masks = counted(stream)
    return [
        rate_hz([mask.received_s for mask in masks if mask.camera == camera])
        for camera in range(stream.cameras)
    ]


class Figures:
    """Look-up of results by model, size and variant."""

    def __init__(self, results: Results) -> None:
        self.results = results
        timed: list[Calls | Stream] = [*results.calls, *results.streams]
        #: (model, size) of all measurements, in order.
        self.groups = list(dict.fromkeys((row.model, row.size) for row in timed))
        #: Transports of the streams, in order.
        self.transports = list(dict.fromkeys(stream.transport for stream in results.streams))
        self._keys = list(dict.fromkeys((row.size, row.key) for row in timed))

    def keys(self, model: str, size: str) -> list[Key]:
        """Return the variants that were timed, in order."""
        return [key for of_size, key in self._keys if (key[0], of_size) == (model, size)]

    def calls(self, key: Key, size: str, what: str = SEGMENT) -> CallFigures | None:
        """Return the statistics of calls over all rounds; None if there were none."""
        for row in self.results.calls:
            if (row.key, row.size, row.what) == (key, size, what):
                wall_ms, cpu_ms = (list(chain(*rounds)) for rounds in (row.wall_ms, row.cpu_ms))
                return CallFigures(spread(wall_ms), spread(cpu_ms))
        return None

    def streams(
        self,
        key: Key,
        size: str,
        cameras: int = 1,
        nodes: int = 1,
        transport: str | None = None,
    ) -> StreamFigures | None:
        """Return the statistics of one arrangement; None if it was not measured.

        Without `transport`, they are those of the first transport that was measured.
        """
        transport = transport or next(iter(self.transports), None)
        streams = [
            stream
            for stream in self.results.streams
            if (stream.key, stream.size) == (key, size)
            and (stream.cameras, stream.nodes, stream.transport) == (cameras, nodes, transport)
        ]
        return StreamFigures(streams) if streams else None

    def quality(self, key: Key, size: str) -> Quality | None:
        """Return the label quality on the frames that were timed."""
        qualities = (q for q in self.results.quality if (q.key, q.size) == (key, size))
        return next(qualities, None)

    def labeled(self, key: Key) -> Quality | None:
        """Return the label quality on the labeled data, whose size differs from the timed ones."""
        timed = {size for _, size in self.groups}
        qualities = (q for q in self.results.quality if q.key == key and q.size not in timed)
        return next(qualities, None)

    def common(self, model: str) -> Key:
        """Return the key of the baseline."""
        return model, COMMON, 'fp32'

    def default(self, model: str) -> Key | None:
        """Return the key of the variant that `auto` chooses."""
        default = self.results.defaults.get(model)
        return None if default is None else (model, default[0], default[1])

    def fastest(self, model: str, size: str) -> Key | None:
        """Return the fastest of our variants whose labels equal those of the reference."""
        candidates = [
            key
            for key in self.keys(model, size)
            if key[1] != COMMON
            and (quality := self.quality(key, size)) is not None
            and quality.agreement >= EQUAL
        ]
        return max(candidates, key=lambda key: self._images_per_s(key, size), default=None)

    def _images_per_s(self, key: Key, size: str) -> float:
        """Return the throughput of the calls or, if these were not measured, of the node."""
        calls, streams = self.calls(key, size), self.streams(key, size)
        if calls is not None:
            return 1000 / calls.wall_ms.median
        return streams.fps.median if streams is not None else 0.0
