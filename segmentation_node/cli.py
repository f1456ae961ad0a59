# SPDX-License-Identifier: Apache-2.0
"""Options, parsers of values and exit codes that commands share."""

import argparse
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from segmentation_node import topics
from segmentation_node.errors import SettingError
from segmentation_node.images.bit_depth import FULL_BITS, LEAST_BITS
from segmentation_node.images.files import MAX_SIDE
from segmentation_node.instances import Thresholds
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA, PRECISIONS

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

DEFAULT_PICTURES: Final = f'{topics.LABEL_MASK},{topics.COLOR_MASK},{topics.OVERLAY}'
#: Exit status of a run in which some images could not be read.
EXIT_INCOMPLETE: Final = 3


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, (bool, list)):
            return action.help
        return super()._get_help_string(action)


@dataclass
class Report:
    """Number of segmented images, and the malformed ones with the reasons."""

    segmented: int = 0
    malformed: list[str] = field(default_factory=list)
    #: Number of segmented images unlike those that the model knows; None if it cannot tell.
    out_of_domain: int | None = None

    @property
    def images(self) -> int:
        """Number of images that were tried."""
        return self.segmented + len(self.malformed)

    def left(self, limit: int | None) -> int | None:
        """Return the number of images left within a limit; None is no limit."""
        return None if limit is None else limit - self.images

    def miss(self, what: object, error: Exception) -> None:
        """Add the reason why an image could not be segmented."""
        self.malformed.append(f'{what}: {error}')

    def add(self, outside: bool | None) -> None:
        """Count a segmented image; `outside` is true if it is out of domain, None if unknown."""
        self.segmented += 1
        if outside is not None:
            self.out_of_domain = (self.out_of_domain or 0) + outside

    def summary(self, total: int, unit: str, place: object, *, interrupted: bool) -> str:
        """Return one line: the number of segmented images, and the place of the results."""
        start = 'interrupted: ' if interrupted else ''
        malformed = f', {len(self.malformed)} malformed' if self.malformed else ''
        outside = '' if self.out_of_domain is None else f', {self.out_of_domain} out of domain'
        return (
            f'{start}{self.segmented} of {total} {unit} segmented{malformed}{outside}, in {place}'
        )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, its options, and --overlay-alpha."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', default=DEFAULT_MODEL, help='bundled name, checkpoint folder, or hub id'
    )
    model.add_argument(
        '--label-scheme', metavar='NAME', help="classes to publish; default: the checkpoint's"
    )
    add_runtime_options(model)
    add_input_size_option(model)
    model.add_argument(
        '--min-confidence', type=share, default=0.0, metavar='SHARE',
        help='pixels of lower confidence (0 to 1) become void',
    )  # fmt: skip
    defaults = Thresholds()
    model.add_argument(
        '--min-instance-score', type=share, default=defaults.score, metavar='SHARE',
        help='panoptic segments and instances with a lower score are dropped',
    )  # fmt: skip
    model.add_argument(
        '--min-instance-overlap', type=share, default=defaults.overlap, metavar='SHARE',
        help='panoptic segments are dropped if better ones leave them no more than this share of '
        'their mask',
    )  # fmt: skip
    parser.add_argument(
        '--outlines', action='store_true', help='paint the outlines of instances in the overlay'
    )
    parser.add_argument(
        '--overlay-alpha', type=share, default=DEFAULT_OVERLAY_ALPHA, metavar='SHARE',
        help='opacity of the colors in the overlay, 0 to 1',
    )  # fmt: skip


def add_runtime_options(
    parser: argparse._ActionsContainer, runtime: str = 'auto', note: str = ''
) -> None:
    """Add --device, --runtime and --precision.

    `runtime` is the default, `note` is added to its help.
    """
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--runtime', choices=RUNTIMES, default=runtime, help=f'inference library{note}'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='auto', help='of the network')


def load_segmenter(args: argparse.Namespace, threads: int = 0) -> 'Segmenter':
    """Load the model of the options; raises like `Segmenter`.

    Raises SettingError, too, if an output in `args.outputs` needs a model with instances.
    """
    # Imported late, since it takes seconds, which --help does not need.
    from segmentation_node.segmenter import Segmenter

    segmenter = Segmenter(
        args.model,
        runtime=args.runtime,
        device=args.device,
        precision=args.precision,
        input_size=args.input_size,
        label_scheme=args.label_scheme,
        min_confidence=args.min_confidence,
        thresholds=Thresholds(args.min_instance_score, args.min_instance_overlap),
        threads=threads,
    )
    wanted = [name for name in args.outputs if name.partition('/')[0] in topics.OF_INSTANCES]
    if wanted and not segmenter.has_instances:
        raise SettingError(
            f'output {", ".join(wanted)} requires instances, which model {args.model} does not '
            f'have; choose a panoptic model or one of instances, or other --outputs'
        )
    return segmenter


def add_outputs_option(parser: argparse.ArgumentParser, known: Collection[str]) -> None:
    """Add --outputs, parsed to names of pictures among `known`."""
    parser.add_argument(
        '--outputs', type=partial(_picture_names, known=known), default=DEFAULT_PICTURES,
        metavar='NAME,NAME', help='pictures to write, separated by commas: ' + ', '.join(known),
    )  # fmt: skip


def _picture_names(text: str, known: Collection[str]) -> list[str]:
    chosen = [name.strip() for name in text.split(',')]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f'unknown output {", ".join(map(repr, unknown))}; there are {", ".join(known)}'
        )
    return list(dict.fromkeys(chosen))


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')


def add_input_size_option(parser: argparse._ActionsContainer) -> None:
    """Add --input-size, parsed to (height, width) or None."""
    parser.add_argument(
        '--input-size', type=_size_hw, metavar='WxH',
        help="box that images are scaled into for the network; default: the checkpoint's",
    )  # fmt: skip


def add_scored_scheme_option(parser: argparse.ArgumentParser) -> None:
    """Add --label-scheme of commands that score."""
    parser.add_argument(
        '--label-scheme', metavar='NAME|FILE',
        help='scheme to score in, if truth and masks have only coarser classes in common; '
        'default: that of the masks',
    )  # fmt: skip


def add_bits_option(parser: argparse.ArgumentParser) -> None:
    """Add --bits-per-sample."""
    parser.add_argument(
        '--bits-per-sample', type=_bits, default=FULL_BITS, metavar='N',
        help='number of bits that the camera uses in images of 16 bits: 12 for values from 0 to '
        '4095',
    )  # fmt: skip


def positive(text: str) -> float:
    """Parse a number above 0."""
    return number(text, lambda value: 0 < value < math.inf, 'number above 0')


def not_negative(text: str) -> float:
    """Parse a number from 0 on."""
    return number(text, lambda value: 0 <= value < math.inf, 'number from 0 on')


def rate_hz(text: str) -> float:
    """Parse a rate; above 1e9, stamps in nanoseconds would be equal."""
    return number(text, lambda value: 1e-12 <= value <= 1e9, 'rate from 1e-12 to 1e9 Hz')


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    return number(text, lambda value: 0 <= value <= 1, 'number from 0 to 1')


def number(text: str, fits: Callable[[float], bool], what: str) -> float:
    """Parse a number that fits; the error names `what` is expected."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not a {what}')
    return value


def count(text: str) -> int:
    """Parse a count of at least 1."""
    if not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1 on')
    return int(text)


def _bits(text: str) -> int:
    if not (text.isdigit() and LEAST_BITS <= int(text) <= FULL_BITS):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a number of bits from {LEAST_BITS} to {FULL_BITS}'
        )
    return int(text)


def size_wh(text: str) -> tuple[int, int]:
    """Parse WxH, a size in pixels."""
    found = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text.lower())
    if not found or not all(1 <= int(side) <= MAX_SIDE for side in found.groups()):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a size; expected WxH, e.g. 1024x512, each from 1 to {MAX_SIDE}'
        )
    return int(found[1]), int(found[2])


def _size_hw(text: str) -> tuple[int, int]:
    return size_wh(text)[::-1]


def topic_name(text: str) -> str:
    """Parse an absolute topic name."""
    if not re.fullmatch(r'(/[A-Za-z_][A-Za-z0-9_]*)+', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not an absolute topic name; expected one like /camera/image'
        )
    return text
