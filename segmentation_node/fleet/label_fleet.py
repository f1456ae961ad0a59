# SPDX-License-Identifier: Apache-2.0
"""Command: segment the cameras of many bags on one machine or on a Ray cluster."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags.bounds import MAX_LINE, shown, tell
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.cli import (
    EXIT_INCOMPLETE,
    HelpFormatter,
    add_bits_option,
    add_model_options,
    add_outputs_option,
    add_quiet_option,
    count,
    not_negative,
    positive,
    topic_name,
)
from segmentation_node.errors import BagError, SegmentationError
from segmentation_node.fleet.inputs import BagInput, find_bags
from segmentation_node.fleet.labeling import Labeling
from segmentation_node.fleet.manifest import DONE, FAILED, BagRecord, Manifest
from segmentation_node.fleet.pool import Pool, WorkerShape, connected
from segmentation_node.fleet.statistics import LabelStatistics, worth_labeling
from segmentation_node.fleet.store import Store
from segmentation_node.interrupt import stop_on_signal
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.pipeline.outputs import OUTPUTS

STATISTICS_FILE: Final = 'statistics.json'
WORTH_LABELING_FILE: Final = 'worth_labeling.csv'
#: Options that the results depend on, beside the model and its scheme.
_PARAMETERS: Final = (
    'topic', 'outputs', 'namespace', 'bits_per_sample', 'salvage', 'runtime', 'precision',
    'input_size', 'min_confidence', 'min_instance_score', 'min_instance_overlap',
    'overlay_alpha', 'outlines',
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='label_fleet',
        description='Segment the camera of every bag, on all cores of this machine or on a Ray '
        'cluster, and write a bag of each with all of its messages and the labels, a manifest, '
        'statistics, and a list of frames that are worth labeling by hand. A run that was ended '
        'continues where it was.',
        epilog='exit status: 0 all bags labeled; 1 error, or no bag could be labeled; '
        f'{EXIT_INCOMPLETE} done, but some bags failed or have malformed frames, and are listed; '
        '130 interrupted, finished parts are kept',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT',
        help='bag, folder of bags, or @FILE, a text file with one of them per line; each is a '
        'path or a URI such as s3://bucket/drives',
    )  # fmt: skip
    parser.add_argument(
        '-o', '--output', required=True, metavar='FOLDER',
        help='where to write: a folder that all machines see, or a URI',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace labels that were made by another model or with other options',
    )  # fmt: skip
    parser.add_argument(
        '--salvage', action='store_true',
        help='read unfinished recordings up to the damage; these bags are not cut',
    )  # fmt: skip
    parser.add_argument(
        '--topic', metavar='NAME', help='camera topic; required if a bag has several cameras'
    )
    add_outputs_option(parser, OUTPUTS)
    parser.set_defaults(outputs=f'{topics.LABEL_MASK}{topics.COMPRESSED_SUFFIX}')
    parser.add_argument(
        '--namespace', type=topic_name, default=f'/{topics.NODE_NAME}',
        help='namespace of the written topics',
    )  # fmt: skip
    add_bits_option(parser)
    _add_fleet_options(parser)
    add_model_options(parser)
    add_quiet_option(parser)
    return parser


def _add_fleet_options(parser: argparse.ArgumentParser) -> None:
    fleet = parser.add_argument_group('fleet')
    fleet.add_argument(
        '--address', metavar='HOST:PORT',
        help='Ray cluster, or "auto" for the one that this machine belongs to; default: '
        'RAY_ADDRESS, or else this machine alone',
    )  # fmt: skip
    fleet.add_argument(
        '--workers', type=count, metavar='N', help='number of workers; default: all that fit'
    )
    fleet.add_argument(
        '--cpus-per-worker', type=positive, default=1.0, metavar='N',
        help='cores of each worker, and threads of its network',
    )  # fmt: skip
    fleet.add_argument(
        '--gpus-per-worker', type=not_negative, default=0.0, metavar='N',
        help='GPUs of each worker; 0.5 lets two workers share one',
    )  # fmt: skip
    fleet.add_argument(
        '--part-minutes', type=not_negative, default=10.0, metavar='MINUTES',
        help='longest part of a bag that one worker segments; 0 cuts no bag',
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except (SegmentationError, OSError) as error:
        tell('label_fleet', error)
        return 1


def _run(args: argparse.Namespace) -> int:
    _make_absolute(args)
    output = Store(args.output)
    bags = find_bags(args.inputs)
    _check_apart(bags, output)
    checkpoint = find_checkpoint(args.model)
    scheme = checkpoint.scheme if args.label_scheme is None else load_scheme(args.label_scheme)
    digest = checkpoint.content_digest
    manifest = Manifest(output, _settings(args, digest, scheme), scheme)
    manifest.check(bags, args.overwrite)
    labeling = Labeling(bags, manifest, _tell_above_progress)
    started_s = time.monotonic()
    status = 0 if labeling.is_finished else _label(args, labeling, digest)
    records = [labeling.records[bag] for bag in bags if bag in labeling.records]
    totals = _write_statistics(output, records, scheme)
    start = 'interrupted: ' if status else ''
    took_s = time.monotonic() - started_s
    _tell_malformed(records)
    _print_figures(totals, scheme)
    print(f'{start}{_summary(labeling, records, totals, took_s)}, in {args.output}')
    return status or _status(records)


def _tell_above_progress(text: str) -> None:
    tqdm.write(f'label_fleet: {shown(text, MAX_LINE)}', file=sys.stderr)


def _make_absolute(args: argparse.Namespace) -> None:
    """Resolve paths, since workers have another working directory."""
    if '://' not in args.output:
        args.output = str(Path(args.output).absolute())
    args.model = _absolute_if_there(args.model)
    args.label_scheme = args.label_scheme and _absolute_if_there(args.label_scheme)
    args.address = args.address or os.environ.get('RAY_ADDRESS') or None
    if args.device == 'auto' and not args.gpus_per_worker:
        args.device = 'cpu'  # the workers of a machine would share its first GPU


def _absolute_if_there(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _check_apart(bags: Sequence[BagInput], output: Store) -> None:
    """Raise BagError where a bag is in the output, or the output in a bag."""
    folder = str(output.path or output.uri).rstrip('/')
    for bag in bags:
        if f'{bag.uri}/'.startswith(f'{folder}/') or f'{folder}/'.startswith(f'{bag.uri}/'):
            raise BagError(
                f'bag {bag.uri} and output {output.uri} are within each other; choose another '
                f'--output'
            )


def _settings(args: argparse.Namespace, digest: str, scheme: LabelScheme) -> dict[str, Any]:
    parameters = {name: getattr(args, name) for name in _PARAMETERS}
    settings = {
        'model': {'name': args.model, 'digest': digest},
        'parameters': {**parameters, 'label_scheme': json.loads(scheme.to_json())},
    }
    read: dict[str, Any] = json.loads(json.dumps(settings))  # as it will be read
    return read


def _label(args: argparse.Namespace, labeling: Labeling, digest: str) -> int:
    """Run the workers; returns the exit status of an interruption, or 0."""
    shape = WorkerShape(args.workers or 0, args.cpus_per_worker, args.gpus_per_worker)
    with connected(args.address) as ray, stop_on_signal() as stop:
        pool = Pool(ray, shape, args, digest)
        with tqdm(unit='frame', disable=args.quiet or None) as progress:

            def watch(frames: int) -> None:
                progress.total = labeling.frames_known
                progress.set_postfix(bags=labeling.ended, refresh=False)
                progress.update(labeling.frames_done + frames - progress.n)

            pool.run(labeling, lambda: bool(stop), watch)
    return stop.exit_status


def _write_statistics(
    output: Store, records: Sequence[BagRecord], scheme: LabelScheme
) -> LabelStatistics:
    """Write the statistics of all bags that are labeled, and the frames worth labeling."""
    done = [record for record in records if record.state == DONE]
    totals = sum((record.statistics for record in done), LabelStatistics())
    content = {
        'bags': {state: sum(record.state == state for record in records)
                 for state in (DONE, FAILED)},
        'frames': totals.frames,
        'malformed': sum(record.total('malformed') for record in done),
        'class_shares': totals.shares(scheme),
        'mean_confidence': totals.confidence,
        'out_of_domain': totals.out_of_domain,
        'worker_seconds': round(sum(record.total('seconds') for record in done), 3),
    }  # fmt: skip
    output.write(STATISTICS_FILE, json.dumps(content, indent=1).encode())
    ranked = worth_labeling((record.bag.uri, record.statistics) for record in done)
    output.write(WORTH_LABELING_FILE, ranked.encode())
    return totals


def _tell_malformed(records: Sequence[BagRecord]) -> None:
    for record in records:
        for line in record.malformed():
            tell('label_fleet', f'malformed: {line}')


def _print_figures(totals: LabelStatistics, scheme: LabelScheme) -> None:
    """Print class shares and mean confidence, if there are frames."""
    if totals.confidence is None:
        return
    for name, share in totals.shares(scheme).items():
        print(f'{name:<20} {share:6.1%}')
    print(f'{"mean confidence":<20} {totals.confidence:6.1%}')


def _summary(
    labeling: Labeling, records: Sequence[BagRecord], totals: LabelStatistics, took_s: float
) -> str:
    """Return one line: the numbers of bags and frames, and the throughput of this run."""
    done = sum(record.state == DONE for record in records)
    failed = sum(record.state == FAILED for record in records)
    earlier = f' ({labeling.skipped} of them earlier)' if labeling.skipped else ''
    outside = '' if totals.out_of_domain is None else f', {totals.out_of_domain} out of domain'
    return (
        f'{done} of {labeling.bags} bags labeled{earlier}'
        + (f', {failed} failed' if failed else '')
        + f'; {labeling.segmented} frames in {took_s:.0f} s, '
        f'{labeling.segmented / max(took_s, 1e-9):.1f} frames/s{outside}'
    )


def _status(records: Sequence[BagRecord]) -> int:
    if all(record.state == FAILED for record in records):
        return 1
    complete = all(record.state == DONE and not record.total('malformed') for record in records)
    return 0 if complete else EXIT_INCOMPLETE


if __name__ == '__main__':
    sys.exit(main())
