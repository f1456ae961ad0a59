# SPDX-License-Identifier: Apache-2.0
"""Results of the demo: table, contact sheet, video."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.demo.contact_sheet import draw_contact_sheet
from segmentation_node.demo.footage import Footage
from segmentation_node.demo.recording import Recording
from segmentation_node.demo.video_file import write_video
from segmentation_node.pipeline.frames import FATES
from segmentation_node.processes import DemoError
from segmentation_node.runtimes.machine import describe
from segmentation_node.scoring import SetScores

ROWS: Final = 5
NAME_WIDTH: Final = 24
#: Explanations of the fates of frames whose names are not self-explanatory.
MEANING: Final = MappingProxyType(
    {
        'superseded': 'replaced by a newer frame before processing',
        'malformed': 'could not be decoded; see log/node.log',
        'failed': 'the network failed; see log/node.log',
        'not_wanted': 'no mask topic had a subscriber',
    }
)


@dataclass(frozen=True)
class DemoOutcome:
    """Outcome of a session: number of frames sent, and the node's last diagnostics."""

    footage: Footage
    bag: Path
    sent: int
    status: Mapping[str, str]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Frames received, frames by fate, and frames lost in transport."""
        return {name: int(self.status[name]) for name in ('received', *FATES, 'lost')}

    @property
    def model(self) -> str:
        """Model, label scheme, runtime, device and precision."""
        status = self.status
        name = Path(status['model']).name
        return (
            f'{name} ({status["label_scheme"]}) on {status["runtime"]}, {status["device"]}, '
            f'{status["precision"]}'
        )

    def recording(self) -> Recording:
        """Return the recording of the node's output."""
        return Recording(self.bag, self.footage.camera.name)


def contact_sheet(
    recording: Recording, title: str, scores: SetScores | None, rows: int = ROWS
) -> UInt8Array:
    """Draw some frames of the recording; raises DemoError if no frame is complete."""
    drawn = recording.rows(rows)
    if not drawn:
        raise DemoError(
            f'no frame of {recording.path} has camera image, mask and overlay with the same '
            f'stamp; the machine is too busy to record: close other programs and start again'
        )
    if scores is None:
        return draw_contact_sheet(drawn, title, recording.scheme)
    title += f', mIoU {100 * scores.scores.miou():.1f} %'
    return draw_contact_sheet(drawn, title, recording.scheme, scores.scores.class_iou())


def write_overlays(recording: Recording, path: Path) -> str:
    """Write the recorded overlays as a video; return the name of the codec."""
    pictures = tqdm(recording.overlays(), total=recording.flow.masks, unit='frame', disable=None)
    return write_video(pictures, path, recording.rate_hz)


def table(outcome: DemoOutcome, recording: Recording, scores: SetScores | None) -> str:
    """Return the table of all figures as lines of text."""
    flow = recording.flow
    lines = [
        _line('model', outcome.model),
        _line('footage', outcome.footage.title),
        _line('machine', describe().line()),
        _line('frames sent', outcome.sent),
        *_fates(outcome),
    ]
    if flow.masks != outcome.counts['published']:
        lines.append(_line('masks recorded', flow.masks, 'the others were lost in transport'))
    lines += [
        _line('rate in', f'{flow.in_rate_hz:.1f} Hz'),
        _line('rate out', f'{flow.out_rate_hz:.1f} Hz'),
        _line('latency p50', f'{flow.latency_p50_ms:.0f} ms', 'from sending an image to its mask'),
        _line('latency p99', f'{flow.latency_p99_ms:.0f} ms'),
    ]
    lines += (
        _scores(scores) if scores is not None else [_line('IoU', '-', recording.no_truth_reason)]
    )
    return '\n'.join(lines)


def _fates(outcome: DemoOutcome) -> Iterator[str]:
    counts = outcome.counts
    for fate in FATES:
        # The two usual fates are always listed, the others only if they occurred.
        if counts[fate] or fate in FATES[:2]:
            remark = MEANING.get(fate, '') if counts[fate] else ''
            yield _line(fate.replace('_', ' '), counts[fate], remark)
    yield _line('lost', counts['lost'], 'in transport, before the node' if counts['lost'] else '')
    unknown = outcome.sent - counts['received'] - counts['lost']
    if unknown > 0:
        yield _line('not seen', unknown, 'sent before the node had discovered the camera')


def _scores(scores: SetScores) -> Iterator[str]:
    iou = scores.scores.class_iou()
    for name, value in iou.items():
        yield _line(f'IoU {name}', '-' if math.isnan(value) else f'{100 * value:.1f} %')
    classes = sum(not math.isnan(value) for value in iou.values())
    remark = f'over {classes} classes on {scores.scored_frames} frames'
    yield _line('mIoU', f'{100 * scores.scores.miou():.1f} %', remark)


def _line(name: str, value: object, remark: str = '') -> str:
    gap = f'({remark})' if remark else ''
    return f'  {name:<{NAME_WIDTH}}{value!s:<12}{gap}'.rstrip()
