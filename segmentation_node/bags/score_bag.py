# SPDX-License-Identifier: Apache-2.0
"""Command: score the label masks in a bag against the ground truth in it."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.options import HelpFormatter, add_input_options, topic_name
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.errors import BagError, ImageError, SegmentationError
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.metrics import Confusion, LabelImage, Scores

TRUTH_TOPIC: Final = f'{topics.GROUND_TRUTH}/{topics.LABEL_MASK}'


@dataclass(frozen=True)
class BagScores:
    """Scores of the frames that have truth and prediction of the same stamp."""

    scores: Scores
    scored_frames: int
    truth_frames: int
    predicted_frames: int


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

    The schemes are those of the `label_info_json` beside each topic. Truth that is not annotated
    (void that no network learns, such as CamVid's "unlabelled") counts for nothing.

    Args:
        path: bag with the label masks.
        predicted_topic: label masks, mono8.
        truth_topic: ground truth, mono8.
        label_scheme: scheme to score in; that of the label masks where None.
        truth_path: bag with the truth; the same bag where None.
        salvage: read a bag that was cut short as far as it goes.
        quiet: show no progress bar.

    Raises:
        BagError: a topic or scheme is missing, or no frame has both.
        SchemeError: the schemes cannot be compared; another `label_scheme` may be coarse enough.
    """
    with open_bag(path, salvage) as bag, open_bag(truth_path or path, salvage) as truth_bag:
        predicted_scheme = scheme_beside(bag, predicted_topic)
        truth_scheme = scheme_beside(truth_bag, truth_topic)
        scheme = predicted_scheme if label_scheme is None else load_scheme(label_scheme)
        truth_lut = truth_lut_of(truth_scheme, scheme)
        predicted_lut = predicted_scheme.mapping_to(scheme)
        truth_stamps = stamps_ns(truth_bag, truth_topic)
        predicted_stamps = stamps_ns(bag, predicted_topic)
        common = set(truth_stamps) & set(predicted_stamps)
        if not common:
            raise BagError(
                f'no stamp of {predicted_topic} ({len(predicted_stamps)} frames of {path}) is one '
                f'of {truth_topic} ({len(truth_stamps)} frames of {truth_path or path}); masks '
                f'must keep the stamps of the camera images'
            )
        confusion = Confusion()
        pairs = _pairs(bag, predicted_topic, truth_bag, truth_topic, common)
        for predicted, truth in tqdm(pairs, 'scoring', len(common), disable=quiet or None):
            if predicted.shape != truth.shape:
                raise BagError(
                    f'a mask of {predicted_topic} is {predicted.shape}, its truth {truth.shape}; '
                    f'they must be of one size'
                )
            target = truth_lut[truth]  # (H, W), ids of `scheme` or -1
            counted = target >= 0
            confusion.add(target[counted].astype(np.uint8), predicted_lut[predicted[counted]])
    return BagScores(
        confusion.scores(scheme), len(common), len(truth_stamps), len(predicted_stamps)
    )


def truth_lut_of(truth: LabelScheme, scheme: LabelScheme) -> npt.NDArray[np.int16]:
    """Look-up table from truth ids to ids of `scheme`, (256,) int16, -1 what does not count.

    That is what is not annotated, and what the truth's own scheme leaves out of its figures.
    """
    id_of_channel = np.full(256, -1, np.int16)
    id_of_channel[: len(scheme.channel_ids)] = scheme.channel_ids
    lut = id_of_channel[scheme.channels_from(truth)]  # IGNORE, 255, is no channel
    lut[[c.id for c in truth.classes if not c.scored]] = -1
    return lut


def scheme_beside(bag: Bag, topic: str) -> LabelScheme:
    """The scheme of a label topic, from the `label_info_json` beside it.

    Raises:
        BagError: there is none, or it is not the scheme that is known here by its name.
    """
    name = f'{topic.rpartition("/")[0]}/{topics.LABEL_INFO_JSON}'
    bag.topic(topic)
    info = messages.deserialize(bag.first(name))
    try:
        content = json.loads(info.data)
        scheme = load_scheme(content['scheme'])
        ids = {row['id']: row['name'] for row in content['classes']}
    except (ValueError, KeyError, TypeError) as error:
        raise BagError(f'{name} of {bag.path} describes no label scheme: {error!r}') from error
    if ids != {c.id: c.name for c in scheme.classes}:
        raise BagError(
            f'{name} of {bag.path} describes another {scheme.name} than is installed here; '
            f'install the label scheme that the bag was made with'
        )
    return scheme


def stamps_ns(bag: Bag, topic: str) -> list[int]:
    """Header stamps of a topic in order."""
    return [messages.stamp_ns_of(messages.deserialize(m)) for m in bag.messages({topic})]


def _pairs(
    bag: Bag, predicted_topic: str, truth_bag: Bag, truth_topic: str, common: set[int]
) -> Iterator[tuple[LabelImage, LabelImage]]:
    """Prediction and truth of each common stamp, (H, W) uint8 each.

    Both come in the order of time, so that only few wait for their partner at any time.
    """
    predicted = _labels(bag, predicted_topic, common)
    truth = _labels(truth_bag, truth_topic, common)
    waiting_predicted: dict[int, LabelImage] = {}
    waiting_truth: dict[int, LabelImage] = {}
    for (predicted_ns, predicted_labels), (truth_ns, truth_labels) in zip(
        predicted, truth, strict=True
    ):
        waiting_predicted[predicted_ns] = predicted_labels
        waiting_truth[truth_ns] = truth_labels
        for stamp_ns in {predicted_ns, truth_ns}:
            if stamp_ns in waiting_predicted and stamp_ns in waiting_truth:
                yield waiting_predicted.pop(stamp_ns), waiting_truth.pop(stamp_ns)


def _labels(bag: Bag, topic: str, wanted: set[int]) -> Iterator[tuple[int, LabelImage]]:
    """Stamp and labels of the wanted stamps, each once."""
    left = set(wanted)
    for raw in bag.messages({topic}):
        message = messages.deserialize(raw)
        stamp_ns = messages.stamp_ns_of(message)
        if stamp_ns in left:
            left.remove(stamp_ns)
            try:
                yield stamp_ns, messages.decode_labels(message)
            except ImageError as error:
                raise BagError(f'{topic} of {bag.path} at {stamp_ns} ns: {error}') from error


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
        '--label-scheme', metavar='NAME',
        help='scheme to score in, where truth and masks have only coarser classes in common; '
        'that of the masks without it',
    )  # fmt: skip
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
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
        print(f'score_bag: {error}', file=sys.stderr)
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
    return '\n'.join([f'IoU in % ({result.scores.scheme.name})', *lines, frames])


if __name__ == '__main__':
    sys.exit(main())
