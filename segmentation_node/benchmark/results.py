# SPDX-License-Identifier: Apache-2.0
"""Everything that one run measured, and results.json, which holds it.

The file is one object with the fields of `Results`; lists hold objects with the fields of the
classes below. Nothing is averaged: medians and quartiles are made when pages are. `null` stands
for what was not measured. Times are milliseconds or seconds as the names say; sizes are "WxH".
A variant is named by `model`, `runtime` and `precision`; runtime "common" is the library as its
examples use it (common_model) or the node as it is commonly written (ros.benchmark.common_node).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from segmentation_node.errors import SettingError
from segmentation_node.machine import Machine

FORMAT: Final = 3

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _OfVariant:
    model: str
    runtime: str
    precision: str

    @property
    def key(self) -> Key:
        """What names the variant."""
        return self.model, self.runtime, self.precision


@dataclass(frozen=True)
class Calls(_OfVariant):
    """Calls of one variant at one size, by rounds.

    `what` is "network" (the bare forward pass, eager fp32) or "segment" (an image to its labels).
    `wall_ms` is what passed on the clock, `cpu_ms` what all cores together worked meanwhile.
    """

    size: str
    what: str
    wall_ms: list[list[float]] = field(default_factory=list)
    cpu_ms: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Quality(_OfVariant):
    """What a variant's labels are worth on some frames.

    `agreement` is the share of pixels labeled as torch fp32 labels them; `miou` the mean IoU
    against the truth over the scheme's official classes, null where there is no truth.
    """

    frames: str
    size: str
    agreement: float
    miou: float | None


@dataclass(frozen=True)
class Mask:
    """A label mask that reached the subscriber.

    Seconds count from the start of the node's process. `sent_s` is when the camera sent the
    image, which the subscriber knows however the node stamps its masks.
    """

    camera: int
    sent_s: float
    received_s: float


@dataclass(frozen=True)
class Stream(_OfVariant):
    """One stretch of a node, or several, between cameras and a subscriber.

    All cameras together send `rate_hz` frames a second, from before the start of the nodes until
    after the end. Throughput, latency, `cpu_s` of the nodes and `others_cpu_s` of camera and
    subscriber are of the time from `from_s` to `to_s`, both since the start of the nodes, as are
    the masks' times. `stamps_kept` is the share of masks whose stamp is the image's. `stages` are
    the node's own figures, such as "infer_p50_ms". `peak_rss_mb` and `pss_mb` hold a value for
    each node: resident memory at its highest, and at the end, with shared pages divided among
    those who share them.

    `transport` is "default" (Fast DDS as it comes) or "profile" (config/transport_fastdds.xml).
    `sent` counts the frames that the cameras sent from `from_s` to `to_s`, give or take a quarter
    of a second. `received` and `lost` are the nodes' own counts since their start, as of their
    last report, one a second; null where a node does not count.
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
    """What could not be measured: `part` is "calls", "quality", "node" or "cameras"."""

    part: str
    reason: str


@dataclass
class Results:
    """All of one run; `settings` are the options it was run with, `date` is UTC.

    `defaults` says by model what `auto` stands for here: runtime and precision.
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
        """Write as JSON."""
        # allow_nan: JSON has no NaN, and none of these fields should hold one.
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        path.write_text(text + '\n', encoding='utf-8')


def read_results(path: Path) -> Results:
    """Read results.json; raises SettingError where it is none of this format."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] != FORMAT:
            raise SettingError(
                f'{path} has format {content["format"]}, expected {FORMAT}; run the benchmark anew'
            )
        return _results(content)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f'{path} holds no results of the benchmark ({error!r}); give its results.json'
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
