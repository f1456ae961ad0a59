# SPDX-License-Identifier: Apache-2.0
"""Options and exit codes of the commands that run a model."""

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from segmentation_node import topics
from segmentation_node.bags.options import add_input_size_option, share
from segmentation_node.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA, PRECISIONS
from segmentation_node.runtimes import RUNTIMES

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

DEFAULT_PICTURES: Final = f'{topics.LABEL_MASK},{topics.COLOR_MASK},{topics.OVERLAY}'
#: Status of a run in which some images could not be read, though everything else was written.
EXIT_INCOMPLETE: Final = 3


@dataclass
class Report:
    """Number of segmented images, and the malformed ones with the reasons."""

    segmented: int = 0
    malformed: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """All images that were tried."""
        return self.segmented + len(self.malformed)

    def left(self, limit: int | None) -> int | None:
        """Return how many more images a limit admits; None is no limit."""
        return None if limit is None else limit - self.images

    def miss(self, what: object, error: Exception) -> None:
        """Note why an image could not be segmented."""
        self.malformed.append(f'{what}: {error}')

    def summary(self, total: int, unit: str, place: object, *, interrupted: bool) -> str:
        """One line: how many of all images were segmented, and where they are."""
        start = 'interrupted: ' if interrupted else ''
        malformed = f', {len(self.malformed)} malformed' if self.malformed else ''
        return f'{start}{self.segmented} of {total} {unit} segmented{malformed}, in {place}'


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, its scheme, runtime, device, precision and threshold, and --overlay-alpha."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', default=DEFAULT_MODEL, help='bundled name, checkpoint folder, or hub id'
    )
    model.add_argument(
        '--label-scheme', metavar='NAME', help="classes to publish; the checkpoint's without it"
    )
    model.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    model.add_argument('--runtime', choices=RUNTIMES, default='auto', help='what runs the model')
    model.add_argument('--precision', choices=PRECISIONS, default='auto', help='of the network')
    add_input_size_option(model)
    model.add_argument(
        '--min-confidence', type=share, default=0.0, metavar='SHARE',
        help='pixels of less confidence (0 to 1) become void',
    )  # fmt: skip
    parser.add_argument(
        '--overlay-alpha', type=share, default=DEFAULT_OVERLAY_ALPHA, metavar='SHARE',
        help='how much of the colors shows in the overlay, 0 to 1',
    )  # fmt: skip


def load_segmenter(args: argparse.Namespace) -> 'Segmenter':
    """Load the model that the options ask for; raises as `Segmenter`."""
    # Imported late: it takes seconds that --help and wrong arguments need not wait for.
    from segmentation_node.segmenter import Segmenter

    return Segmenter(
        args.model,
        runtime=args.runtime,
        device=args.device,
        precision=args.precision,
        input_size=args.input_size,
        label_scheme=args.label_scheme,
        min_confidence=args.min_confidence,
    )


def picture_names(text: str, known: list[str]) -> list[str]:
    """Parse names of pictures with commas between them."""
    chosen = [name.strip() for name in text.split(',')]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f'unknown output {", ".join(map(repr, unknown))}; there are {", ".join(known)}'
        )
    return list(dict.fromkeys(chosen))
