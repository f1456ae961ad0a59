# SPDX-License-Identifier: Apache-2.0
"""Command: score the label masks in a bag against the ground truth in it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.bounds import shown, tell
from segmentation_node.bags.matching import Matching
from segmentation_node.bags.options import add_input_options
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.cli import (
    HelpFormatter,
    add_quiet_option,
    add_scored_scheme_option,
    topic_name,
)
from segmentation_node.errors import BagError, SchemeError, SegmentationError
from segmentation_node.labels import LabelScheme, described_scheme, load_scheme
from segmentation_node.scoring import LabelComparison, SetScores, table

TRUTH_TOPIC: Final = f'{topics.GROUND_TRUTH}/{topics.LABEL_MASK}'


def score_bag(
    path: str | Path,
    predicted_topic: str = topics.resolved(topics.LABEL_MASK),
    truth_topic: str = TRUTH_TOPIC,
    label_scheme: str | None = None,
    truth_path: str | Path | None = None,
    salvage: bool = False,
    quiet: bool = True,
) -> SetScores:
    """Compare label masks with the truth of the same header stamp.

    Frames whose header stamps repeat are matched by the time of recording. The schemes are those
    of the `label_info_json` beside each topic.

    Args:
        path: bag with the label masks.
        predicted_topic: label masks, mono8.
        truth_topic: ground truth, mono8.
        label_scheme: scheme to score in, by name or file; that of the label masks where None.
        truth_path: bag with the truth; the same bag where None.
        salvage: read a bag that was cut short up to the cut.
        quiet: show no progress bar.

    Raises:
        BagError: a topic or scheme is missing, no frame has both, or masks and truth cannot be
            matched.
        DatasetError: a mask does not fit its truth, or no pixel of the truth is of a class that is
            scored.
        SchemeError: the schemes cannot be compared; another `label_scheme` may be coarse enough.
    """
    with open_bag(path, salvage) as bag, open_bag(truth_path or path, salvage) as truth_bag:
        given = None if label_scheme is None else load_scheme(label_scheme)
        predicted_scheme = scheme_beside(bag, predicted_topic, given)
        truth_scheme = scheme_beside(truth_bag, truth_topic, given)
        comparison = LabelComparison(truth_scheme, predicted_scheme, given)
        matching = Matching([(bag, predicted_topic), (truth_bag, truth_topic)])
        predicted_frames, truth_frames = matching.counts
        if not len(matching):
            raise BagError(
                f'no stamp of {predicted_topic} ({predicted_frames} frames of {path}) is one '
                f'of {truth_topic} ({truth_frames} frames of {truth_path or path}); masks '
                f'must keep the stamps of the camera images'
            )
        labels = messages.decode_labels
        pairs = matching.pixels([(bag, predicted_topic, labels), (truth_bag, truth_topic, labels)])
        progress = tqdm(pairs, 'scoring', len(matching), disable=quiet or None)
        for time, (predicted, truth) in progress:
            comparison.add(truth, predicted, f'{path} at {time.time_ns} ns')
    return SetScores(
        comparison.scores(str(path)), len(matching), truth_frames, predicted_frames,
        matching.recorded,
    )  # fmt: skip


def scheme_beside(bag: Bag, topic: str, given: LabelScheme | None = None) -> LabelScheme:
    """Return the scheme of a label topic, from the `label_info_json` beside it.

    A bag names its scheme; `given` is a scheme of that name that is not installed.

    Raises:
        BagError: the topic is missing or not an Image, or its description is missing or differs
            from the installed scheme of that name.
    """
    msgtype = bag.topic(topic).msgtype
    if msgtype != messages.IMAGE:
        raise BagError(
            f'topic {topic} of {bag.path} is a {shown(msgtype)}, expected a '
            f'{messages.IMAGE} of label ids: choose the topic of a label mask'
        )
    name = topics.label_info_beside(topic)
    raw = bag.first(name)
    if raw.topic.msgtype != messages.STRING:
        raise BagError(
            f'{name} of {bag.path} is a {raw.topic.shown_type}, expected a {messages.STRING} that '
            f'describes a label scheme: record it again'
        )
    try:
        return described_scheme(messages.deserialize(raw).data, given)
    except SchemeError as error:
        raise BagError(f'{name} of {bag.path}: {error}') from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='score_bag',
        description='Score the label masks in a bag against the ground truth of the same stamps.',
        formatter_class=HelpFormatter,
    )
    add_input_options(parser)
    parser.add_argument(
        '--predicted', type=topic_name, default=topics.resolved(topics.LABEL_MASK),
        metavar='TOPIC', help='label masks',
    )  # fmt: skip
    parser.add_argument(
        '--truth', type=topic_name, default=TRUTH_TOPIC, metavar='TOPIC', help='ground truth'
    )
    parser.add_argument(
        '--truth-bag', type=Path, metavar='BAG', help='bag with the truth; default: the same bag'
    )
    add_scored_scheme_option(parser)
    add_quiet_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        result = score_bag(
            args.input, args.predicted, args.truth, args.label_scheme, args.truth_bag,
            args.salvage, args.quiet,
        )  # fmt: skip
    except (SegmentationError, OSError) as error:
        tell('score_bag', error)
        return 1
    print(table(result))
    return 0


if __name__ == '__main__':
    sys.exit(main())
