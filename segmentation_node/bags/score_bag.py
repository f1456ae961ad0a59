# SPDX-License-Identifier: Apache-2.0
"""Command: score the label masks in a bag against the ground truth in it."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.bounds import MAX_JSON_BYTES, shown, tell
from segmentation_node.bags.matching import Matching
from segmentation_node.bags.options import (
    HelpFormatter,
    add_input_options,
    add_quiet_option,
    topic_name,
)
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.errors import BagError, ForeignError, SegmentationError, quoted
from segmentation_node.foreign import parse_json
from segmentation_node.labels import LabelScheme, available_schemes, load_scheme
from segmentation_node.metrics import Confusion, Scores, truth_lut_of

TRUTH_TOPIC: Final = f'{topics.GROUND_TRUTH}/{topics.LABEL_MASK}'


@dataclass(frozen=True)
class BagScores:
    """Scores of the frames that have truth and prediction of the same stamp.

    `recorded_frames` of those scored have header stamps that repeat, and were matched by the time
    at which they were recorded.
    """

    scores: Scores
    scored_frames: int
    truth_frames: int
    predicted_frames: int
    recorded_frames: int = 0


def score_bag(
    path: str | Path,
    predicted_topic: str = topics.resolved(topics.LABEL_MASK),
    truth_topic: str = TRUTH_TOPIC,
    label_scheme: str | None = None,
    truth_path: str | Path | None = None,
    salvage: bool = False,
    quiet: bool = True,
) -> BagScores:
    """Compare label masks with the truth of the same header stamp.

    Frames whose header stamps repeat are matched by the time at which they were recorded.

    The schemes are those of the `label_info_json` beside each topic. Truth that is not annotated
    (void that no network learns, such as CamVid's "unlabelled") counts for nothing.

    Args:
        path: bag with the label masks.
        predicted_topic: label masks, mono8.
        truth_topic: ground truth, mono8.
        label_scheme: scheme to score in, by name or file; that of the label masks where None.
        truth_path: bag with the truth; the same bag where None.
        salvage: read a bag that was cut short as far as it goes.
        quiet: show no progress bar.

    Raises:
        BagError: a topic or scheme is missing, no frame has both, or it is open which masks belong
            to which truth.
        SchemeError: the schemes cannot be compared; another `label_scheme` may be coarse enough.
    """
    with open_bag(path, salvage) as bag, open_bag(truth_path or path, salvage) as truth_bag:
        given = None if label_scheme is None else load_scheme(label_scheme)
        predicted_scheme = scheme_beside(bag, predicted_topic, given)
        truth_scheme = scheme_beside(truth_bag, truth_topic, given)
        scheme = given or predicted_scheme
        truth_lut = truth_lut_of(truth_scheme, scheme)
        predicted_lut = predicted_scheme.mapping_to(scheme)
        matching = Matching([(bag, predicted_topic), (truth_bag, truth_topic)])
        predicted_frames, truth_frames = matching.counts
        if not len(matching):
            raise BagError(
                f'no stamp of {predicted_topic} ({predicted_frames} frames of {path}) is one '
                f'of {truth_topic} ({truth_frames} frames of {truth_path or path}); masks '
                f'must keep the stamps of the camera images'
            )
        confusion = Confusion()
        labels = messages.decode_labels
        pairs = matching.pixels([(bag, predicted_topic, labels), (truth_bag, truth_topic, labels)])
        progress = tqdm(pairs, 'scoring', len(matching), disable=quiet or None)
        for _, (predicted, truth) in progress:
            if predicted.shape != truth.shape:
                raise BagError(
                    f'a mask of {predicted_topic} is {predicted.shape}, its truth {truth.shape}; '
                    f'they must be of one size'
                )
            confusion.add_target(truth_lut[truth], predicted_lut[predicted])
    return BagScores(
        confusion.scores(scheme),
        len(matching),
        truth_frames,
        predicted_frames,
        matching.recorded,
    )


def scheme_beside(bag: Bag, topic: str, given: LabelScheme | None = None) -> LabelScheme:
    """The scheme of a label topic, from the `label_info_json` beside it.

    A bag tells a scheme by its name; `given` is one of that name that is not installed.

    Raises:
        BagError: the topic is missing or no Image, or what is beside it is missing or not the
            scheme that is known here by its name.
    """
    msgtype = bag.topic(topic).msgtype
    if msgtype != messages.IMAGE:
        raise BagError(
            f'topic {topic} of {bag.path} is a {shown(msgtype)}, expected a '
            f'{messages.IMAGE} of label ids: choose the topic of a label mask'
        )
    name = f'{topic.rpartition("/")[0]}/{topics.LABEL_INFO_JSON}'
    raw = bag.first(name)
    if raw.topic.msgtype != messages.STRING:
        raise BagError(
            f'{name} of {bag.path} is a {raw.topic.shown_type}, expected a {messages.STRING} that '
            f'describes a label scheme: record it again'
        )
    try:
        content = parse_json(messages.deserialize(raw).data, max_bytes=MAX_JSON_BYTES)
        found = content['scheme']
        # A name alone: a bag has no say in which files are read.
        known = [given] if given is not None else []
        known += [load_scheme(found)] if found in available_schemes() else []
        scheme = next((scheme for scheme in known if scheme.name == found), None)
        ids = {row['id']: row['name'] for row in content['classes']}
    except (ForeignError, KeyError, TypeError) as error:
        reason = shown(f'{type(error).__name__}: {error}', 300)
        raise BagError(
            f'{name} of {bag.path} describes no label scheme ({reason}); expected JSON with '
            f'scheme and classes, as segment_bag and images_to_bag write it'
        ) from error
    if scheme is None:
        raise BagError(
            f'{name} of {bag.path}: unknown label scheme {quoted(found)}; there are '
            f'{", ".join(available_schemes())}, or give the path of a .yaml file as the label '
            f'scheme to score in'
        )
    if ids != {c.id: c.name for c in scheme.classes}:
        raise BagError(
            f'{name} of {bag.path} describes another {scheme.name} than is installed here; '
            f'install the label scheme that the bag was made with'
        )
    return scheme


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
        '--truth-bag', type=Path, metavar='BAG', help='bag with the truth; the same without it'
    )
    parser.add_argument(
        '--label-scheme', metavar='NAME|FILE',
        help='scheme to score in, where truth and masks have only coarser classes in common; '
        'that of the masks without it',
    )  # fmt: skip
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


def table(result: BagScores) -> str:
    """Figures as text, in percent."""
    iou = result.scores.class_iou()
    width = max(map(len, (*iou, 'pixel accuracy')))
    rows = {**iou, 'mIoU': result.scores.miou(), 'pixel accuracy': result.scores.pixel_accuracy()}
    lines = [f'{name:{width}}  {100 * value:6.2f}' for name, value in rows.items()]
    frames = (
        f'{result.scored_frames} frames scored; {result.truth_frames} had truth, '
        f'{result.predicted_frames} a mask'
    )
    if result.recorded_frames:
        frames += (
            f'\n{result.recorded_frames} of them matched by the time at which they were recorded, '
            f'since their header stamps repeat'
        )
    return '\n'.join([f'IoU in % ({result.scores.scheme.name})', *lines, frames])


if __name__ == '__main__':
    sys.exit(main())
