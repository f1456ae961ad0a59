# SPDX-License-Identifier: Apache-2.0
"""Command that regenerates the tables and charts of benchmark runs from results.json."""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

from segmentation_node import markdown
from segmentation_node.benchmark.figures import EQUAL, Figures, StreamFigures
from segmentation_node.benchmark.measurements import Key, Results, read_results
from segmentation_node.benchmark.plot import draw_plot
from segmentation_node.benchmark.timing import NO_NUMBER, Spread, three_digits
from segmentation_node.benchmark.variant_process import NETWORK
from segmentation_node.benchmark.variants import COMMON
from segmentation_node.errors import SegmentationError

#: Names of the markers in the pages of the manual: all columns, and the columns for README.md.
CHAPTER: Final = 'speed'
SUMMARY: Final = 'speed-summary'
JSON_FILE: Final = 'results.json'
_STAGES: Final = ('wait', 'decode', 'infer', 'publish')
_EXPLAINED: Final = f"""\
Medians, with quartiles in brackets. *Network* is the pass from pixels to class scores alone, *CPU*
the CPU time of all cores per image, *x* the speed relative to the commonly written baseline.
*same* is the share of pixels with the same label as torch fp32; labels below {100 * EQUAL:.0f} %
do not count as equal. *mIoU* is against the ground truth. Latency is the time from sending an
image to receiving its mask. *CPU ms beyond calls* is the CPU time of the node per mask minus that
of a segmenter call in the same run; on a machine whose speed varies, it can be negative. *Sent* is
the number of frames that the camera sent while masks were counted, *lost %* the share of them that
the middleware lost on the way to the node. *transport* is Fast DDS with its default settings
(default) or with config/transport_fastdds.xml (profile). *% of calls* is the throughput of the
node relative to that of segmenter calls, *others CPU* the CPU time of camera and subscriber on the
same cores, *memory* the peak resident set, *start* the time from the start of the process to the
first mask, with warm caches. Stage times are reported by the node itself."""

_CAMERAS_EXPLAINED: Final = """\
All cameras together send as many frames per second as the single camera above. Memory is that of
all nodes, with shared pages counted once."""


def page(results: Results) -> str:
    """Return the page with all tables, as Markdown."""
    figures = Figures(results)
    parts = ['# Benchmark results', _about(results), _EXPLAINED]
    for model, size in figures.groups:
        parts.append(f'## {model}, {size.replace("x", " x ")}')
        parts += [_calls(figures, model, size), _nodes(figures, model, size)]
    parts += [_cameras(figures), _absent(results)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def chapter(results: Results) -> str:
    """Return the chosen variants of a run with all columns, as Markdown."""
    figures = Figures(results)
    head = ['model', 'image', 'variant', 'ms per call', 'frames per second',
            'latency p50, p99 ms', 'memory MB', 'start s', 'same %', 'mIoU %']  # fmt: skip
    rows = [
        [f'`{model}`', size, *_chapter_row(figures, key, size)]
        for model, size in figures.groups
        for key in _chapter_keys(figures, model, size)
    ]
    return f'{_about(results)}\n\n{markdown.table(head, rows)}'


def summary(runs: Iterable[Results]) -> str:
    """Return the chosen variants of several runs in one table, as Markdown."""
    head = ['machine', 'model', 'image', 'variant', 'frames per second', 'latency p50, p99 ms',
            'mIoU %']  # fmt: skip
    rows = []
    for results in runs:
        figures = Figures(results)
        for model, size in figures.groups:
            for key in _chapter_keys(figures, model, size):
                name, _, fps, latency, _, _, _, miou = _chapter_row(figures, key, size)
                rows.append([_machine(results), f'`{model}`', size, name, fps, latency, miou])
    return markdown.table(head, rows)


def _machine(results: Results) -> str:
    """Return the processor of a run and its instruction sets."""
    limit = results.machine.isa_limit
    processor = results.machine.line().partition(';')[0]
    return processor + (f', limited to {limit}' if limit else '')


def _chapter_keys(figures: Figures, model: str, size: str) -> list[Key]:
    available = figures.keys(model, size)
    chosen = (figures.common(model), figures.default(model), figures.fastest(model, size))
    return list(dict.fromkeys(key for key in chosen if key in available))


def _chapter_row(figures: Figures, key: Key, size: str) -> list[str]:
    calls, stream = figures.calls(key, size), figures.streams(key, size)
    call_ms = calls.wall_ms.median if calls else math.nan
    name = variant_name(key) + (' (`auto`)' if key == figures.default(key[0]) else '')
    if stream is None:
        return [name, three_digits(call_ms), *[NO_NUMBER] * 4, *_quality(figures, key, size)]
    return [
        name,
        three_digits(call_ms),
        f'{three_digits(stream.fps.median)}{_times(figures, key, size)}',
        ', '.join(map(three_digits, stream.latency_ms)),
        three_digits(stream.memory_mb),
        three_digits(stream.start_s.median),
        *_quality(figures, key, size),
    ]


def _times(figures: Figures, key: Key, size: str) -> str:
    """Return the throughput relative to the commonly written node, in brackets."""
    factor = _factor(figures, key, size)
    return '' if key[1] == COMMON or math.isnan(factor) else f' ({three_digits(factor)} x)'


def variant_name(key: Key) -> str:
    """Return the name of a variant as shown on pages."""
    return 'as commonly written' if key[1] == COMMON else f'{key[1]} {key[2]}'


def _about(results: Results) -> str:
    settings = results.settings
    remark = (
        f'{results.date}; {settings["rounds"]} alternating rounds of {settings["seconds"]:g} s; '
        f'frames: {settings["frames"]}'
    )
    if settings['quick']:
        remark += '. A quick run to check that everything works; figures are not representative'
    notes = ''.join(f' {note}' for note in results.notes)
    return f'{results.machine.line()}. {remark}.{notes}'


def _calls(figures: Figures, model: str, size: str) -> str:
    rows = []
    common = figures.calls(figures.common(model), size)
    for key in figures.keys(model, size):
        network, calls = figures.calls(key, size, NETWORK), figures.calls(key, size)
        if network is None and calls is None:
            continue
        factor = common.wall_ms.median / calls.wall_ms.median if common and calls else math.nan
        rows.append([
            variant_name(key), *(_spread(c.wall_ms) if c else NO_NUMBER for c in (calls, network)),
            three_digits(calls.cpu_ms.median) if calls else NO_NUMBER, three_digits(factor),
            *_quality(figures, key, size), *_labeled_miou(figures, key),
        ])  # fmt: skip
    head = ['an image to its labels', 'ms', 'network ms', 'CPU ms', 'x', 'same %', 'mIoU %',
            *_labeled(figures)]  # fmt: skip
    filled = [row + [''] * (len(head) - len(row)) for row in rows]
    return markdown.table(head, filled) if rows else ''


def _nodes(figures: Figures, model: str, size: str) -> str:
    rows = []
    for key, transport in product(figures.keys(model, size), figures.transports):
        stream = figures.streams(key, size, transport=transport)
        if stream is None:
            continue
        rows.append([
            variant_name(key), transport, *_stream_cells(stream),
            three_digits(_beyond_calls_ms(figures, key, size, stream)),
            three_digits(_factor(figures, key, size, transport)),
            three_digits(_share_of_calls(figures, key, size, stream)), str(stream.sent),
            _percent(stream.lost_share), three_digits(stream.memory_mb),
            _spread(stream.start_s), 'kept' if stream.stamps_kept else 'lost',
            *(three_digits(stream.stage_ms(stage)) for stage in _STAGES),
            *_quality(figures, key, size)[:1],
        ])  # fmt: skip
    head = ['the node', 'transport', *_STREAM_HEAD, 'CPU ms beyond calls', 'x', '% of calls',
            'sent', 'lost %', 'memory MB', 'start s', 'stamps',
            *(f'{stage} ms' for stage in _STAGES), 'same %']  # fmt: skip
    return markdown.table(head, rows) if rows else ''


_STREAM_HEAD: Final = ('frames per second', 'p50 ms', 'p99 ms', 'CPU ms', 'others CPU ms')


def _stream_cells(stream: StreamFigures) -> list[str]:
    figures = (*stream.latency_ms, stream.cpu_ms, stream.others_cpu_ms)
    return [_spread(stream.fps), *map(three_digits, figures)]


def _beyond_calls_ms(figures: Figures, key: Key, size: str, stream: StreamFigures) -> float:
    """Return the CPU milliseconds of the node per mask, minus those of a segmenter call."""
    calls = figures.calls(key, size)
    return stream.cpu_ms - calls.cpu_ms.median if calls else math.nan


def _share_of_calls(figures: Figures, key: Key, size: str, stream: StreamFigures) -> float:
    """Return the throughput of the node relative to that of segmenter calls, in percent."""
    calls = figures.calls(key, size)
    return stream.fps.median * calls.wall_ms.median / 10 if calls else math.nan


def _factor(figures: Figures, key: Key, size: str, transport: str | None = None) -> float:
    """Return the throughput relative to the commonly written node."""
    keys = (key, figures.common(key[0]))
    ours, common = (figures.streams(k, size, transport=transport) for k in keys)
    return ours.fps.median / common.fps.median if ours and common else math.nan


def _cameras(figures: Figures) -> str:
    arrangements = dict.fromkeys(
        (s.key, s.size, s.cameras, s.nodes) for s in figures.results.streams if s.cameras > 1
    )
    rows = []
    for key, size, cameras, nodes in arrangements:
        stream, one = figures.streams(key, size, cameras, nodes), figures.streams(key, size)
        if stream is not None:
            factor = stream.own_memory_mb / one.own_memory_mb if one else math.nan
            what = f'{cameras} cameras, {nodes} node{"s" if nodes > 1 else ""}'
            rows.append([
                key[0], size, variant_name(key), what, *_stream_cells(stream),
                three_digits(stream.own_memory_mb), three_digits(factor),
                *_quality(figures, key, size)[:1],
            ])  # fmt: skip
    if not rows:
        return ''
    head = ['model', 'image', 'variant', '', *_STREAM_HEAD, 'memory MB', 'x one camera',
            'same %']  # fmt: skip
    return f'## Several cameras\n\n{_CAMERAS_EXPLAINED}\n\n{markdown.table(head, rows)}'


def _absent(results: Results) -> str:
    rows = [[a.model, variant_name(a.key), a.part, a.reason] for a in results.absent]
    if not rows:
        return ''
    head = ['model', 'variant', 'part', 'reason']
    return '## Not measured on this machine\n\n' + markdown.table(head, rows)


def _quality(figures: Figures, key: Key, size: str) -> list[str]:
    """Return the agreement and mIoU on the frames that were timed, in percent."""
    quality = figures.quality(key, size)
    if quality is None:
        return [NO_NUMBER, NO_NUMBER]
    return [f'{100 * quality.agreement:.2f}', _percent(quality.miou)]


def _labeled(figures: Figures) -> list[str]:
    """Return the header of the column for labeled data, if there is any."""
    qualities = (figures.labeled(quality.key) for quality in figures.results.quality)
    of_data = next((quality for quality in qualities if quality is not None), None)
    return [f'mIoU %, {of_data.frames}'] if of_data else []


def _labeled_miou(figures: Figures, key: Key) -> list[str]:
    quality = figures.labeled(key)
    return [_percent(quality.miou)] if quality else []


def _percent(share: float | None) -> str:
    return NO_NUMBER if share is None or math.isnan(share) else f'{100 * share:.2f}'


def _spread(values: Spread) -> str:
    if math.isnan(values.median):
        return NO_NUMBER
    low, high = three_digits(values.q1), three_digits(values.q3)
    return f'{three_digits(values.median)} [{low}, {high}]'


def write_pages(results: Results, output: Path) -> list[Path]:
    """Write results.json, results.md and results.png to a folder and return their paths."""
    files = [output / name for name in (JSON_FILE, 'results.md', 'results.png')]
    results.write(files[0])
    files[1].write_text(page(results), encoding='utf-8')
    files[2].write_bytes(draw_plot(Figures(results)))
    return files


def lines(results: Results) -> Iterator[str]:
    """Return the lines of the summary for a terminal."""
    yield chapter(results)
    if results.absent:
        yield ''
        yield from (f'{variant_name(a.key)} of {a.model}: {a.reason}' for a in results.absent)


def _update(path: Path, runs: Sequence[Results]) -> None:
    """Write figures into a page; raises SettingError if it has no markers for them."""
    text = path.read_text(encoding='utf-8')
    if f'<!-- {SUMMARY}:' in text:
        text = markdown.with_content(text, SUMMARY, summary(runs))
    else:
        text = markdown.with_content(text, CHAPTER, '\n\n'.join(map(chapter, runs)))
    path.write_text(text, encoding='utf-8')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.benchmark.report',
        description='Regenerate the pages and charts of benchmark runs.',
    )
    parser.add_argument(
        'results', type=Path, nargs='+',
        help='results.json of each run, for example on several CPUs',
    )  # fmt: skip
    parser.add_argument(
        '--readme', type=Path, nargs='+', default=[], metavar='FILE',
        help=f'pages to update, with markers for {CHAPTER} or {SUMMARY}',
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        runs = {path: read_results(path) for path in args.results}
        written = [
            page for path, results in runs.items() for page in write_pages(results, path.parent)
        ]
        for path in args.readme:
            _update(path, list(runs.values()))
            written.append(path)
    except (SegmentationError, OSError) as error:
        print(f'report: {error}', file=sys.stderr)
        return 1
    print('\n'.join(map(str, written)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
