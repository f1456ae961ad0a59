# SPDX-License-Identifier: Apache-2.0
"""Results of one run, and their file format, results.json.

The file is one object with the fields of `Results`; its lists contain objects with the fields of
the classes below. Nothing is averaged: medians and quartiles are computed for the pages. `null`
means not measured. Times are in milliseconds or seconds, as the names say; sizes are "WxH". A
variant is identified by `model`, `runtime` and `precision`. Runtime "common" is the baseline: the
library used as in its examples (common_model), or a commonly written node
(common_node).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from segmentation_node.errors import SettingError
from segmentation_node.runtimes.machine import Machine

FORMAT: Final = 3

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _OfVariant:
    model: str
    runtime: str
    precision: str

    @property
    def key(self) -> Key:
        """Identity of the variant."""
        return self.model, self.runtime, self.precision


@dataclass(frozen=True)
class Calls(_OfVariant):
    """Calls of one variant at one size, by round.

    `what` is "network" (the forward pass alone) or "segment" (from an image to its labels).
    `wall_ms` is wall-clock time, `cpu_ms` the CPU time of all cores together.
    """

    size: str
    what: str
    wall_ms: list[list[float]] = field(default_factory=list)
    cpu_ms: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Quality(_OfVariant):
    """Label quality of a variant on some frames.

    `agreement` is the share of pixels labeled as by torch fp32; `miou` is the mean IoU against
    the ground truth over the scheme's official classes, null if there is no truth.
    """

    frames: str
    size: str
    agreement: float
    miou: float | None


@dataclass(frozen=True)
class Mask:
    """Label mask received by the subscriber.

    Times are in seconds since the start of the node's process. `sent_s` is the time when the
    camera sent the image; the subscriber knows it regardless of how the node stamps its masks.
    """

    camera: int
    sent_s: float
    received_s: float


@dataclass(frozen=True)
class Stream(_OfVariant):
    """One measurement of one or several nodes between cameras and a subscriber.

    All cameras together send `rate_hz` frames per second, from before the start of the nodes until
    after the end. Throughput, latency, `cpu_s` of the nodes and `others_cpu_s` of camera and
    subscriber refer to the interval from `from_s` to `to_s`; both count from the start of the
    nodes, as do the times of the masks. `stamps_kept` is the share of masks with the stamp of
    their image. `stages` are figures reported by the node, such as "infer_p50_ms". `peak_rss_mb`
    and `pss_mb` have one value per node: the peak resident memory, and the memory at the end with
    shared pages divided among the processes that share them.

    `transport` is "default" (default settings of Fast DDS) or "profile"
    (config/transport_fastdds.xml). `sent` is the number of frames that the cameras sent from
    `from_s` to `to_s`, within a quarter of a second. `received` and `lost` are the nodes' own
    counts since their start, from their last report (one per second); null if a node does not
    count.
    """

    size: str
    cameras: int
    nodes: int
    round: int
    transport: str
    rate_hz: float
    from_s: float
    to_s: float
    masks: list[Mask]
    stamps_kept: float
    sent: int
    received: int | None
    lost: int | None
    cpu_s: float
    others_cpu_s: float
    peak_rss_mb: list[float]
    pss_mb: list[float]
    stages: dict[str, float]


@dataclass(frozen=True)
class Absent(_OfVariant):
    """Measurement that was not possible; `part` is "calls", "quality", "node" or "cameras"."""

    part: str
    reason: str


@dataclass
class Results:
    """Results of one run; `settings` are the options of the run, `date` is in UTC.

    `defaults` maps each model to the runtime and precision that `auto` chose on this machine.
    """

    date: str
    settings: dict[str, Any]
    machine: Machine
    defaults: dict[str, list[str]] = field(default_factory=dict)
    calls: list[Calls] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Write the results as JSON."""
        # allow_nan: JSON has no NaN, and no field should contain one.
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        path.write_text(text + '\n', encoding='utf-8')


def read_results(path: Path) -> Results:
    """Read results.json; raises SettingError if it is not in this format."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] != FORMAT:
            raise SettingError(
                f'{path} has format {content["format"]}, expected {FORMAT}; repeat the benchmark'
            )
        return _results(content)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f'{path} contains no benchmark results ({error!r}); give the results.json of a run'
        ) from error


def _results(content: Mapping[str, Any]) -> Results:
    return Results(
        **{
            **content,
            'machine': Machine(**content['machine']),
            'calls': [Calls(**row) for row in content['calls']],
            'quality': [Quality(**row) for row in content['quality']],
            'streams': [
                Stream(**{**row, 'masks': [Mask(**mask) for mask in row['masks']]})
                for row in content['streams']
            ],
            'absent': [Absent(**row) for row in content['absent']],
        }
    )
