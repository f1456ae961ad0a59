# SPDX-License-Identifier: Apache-2.0
"""Options that commands share."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from segmentation_node.bags.messages import MAX_STAMP_S, SECOND_NS
from segmentation_node.bags.writer import STORAGE_FILES
from segmentation_node.image_files import MAX_SIDE
from segmentation_node.samples import FULL_BITS, LEAST_BITS


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, (bool, list)):
            return action.help
        return super()._get_help_string(action)


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """The bag to read, and --salvage."""
    parser.add_argument(
        'input', type=Path, metavar='BAG',
        help='bag to read: a folder with metadata.yaml, or a .mcap or .db3 file',
    )  # fmt: skip
    parser.add_argument(
        '--salvage', action='store_true',
        help='read what a killed recording left: a folder without metadata.yaml, and an MCAP file '
        'that was cut short, as far as it goes',
    )  # fmt: skip


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--output, --storage, --overwrite and --quiet."""
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='BAG',
        help='bag to write: a folder, or a single file where it ends in .mcap',
    )  # fmt: skip
    parser.add_argument(
        '--storage', choices=sorted(STORAGE_FILES), default='mcap', help='of a bag folder'
    )
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace the bag if it is there; nothing but a bag is ever deleted',
    )  # fmt: skip
    add_quiet_option(parser)


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """--quiet."""
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')


def add_input_size_option(parser: argparse._ActionsContainer) -> None:
    """--input-size, (height, width) as the segmenter takes it, or None."""
    parser.add_argument(
        '--input-size', type=_size_hw, metavar='WxH',
        help="box that images are scaled into for the network (without it: the checkpoint's)",
    )  # fmt: skip


def add_scored_scheme_option(parser: argparse.ArgumentParser) -> None:
    """--label-scheme of commands that score."""
    parser.add_argument(
        '--label-scheme', metavar='NAME|FILE',
        help='scheme to score in, where truth and masks have only coarser classes in common; '
        'that of the masks without it',
    )  # fmt: skip


def add_bits_option(parser: argparse.ArgumentParser) -> None:
    """--bits-per-sample."""
    parser.add_argument(
        '--bits-per-sample', type=_bits, default=FULL_BITS, metavar='N',
        help='how many bits the camera uses in images of 16 bits: 12 for 12-bit values from 0 to '
        '4095',
    )  # fmt: skip


def positive(text: str) -> float:
    """Parse a number above 0."""
    return _number(text, lambda value: 0 < value < math.inf, 'number above 0')


def rate_hz(text: str) -> float:
    """Parse how many a second; beyond 1e9 their stamps, in nanoseconds, would be the same."""
    return _number(text, lambda value: 1e-12 <= value <= SECOND_NS, 'rate from 1e-12 to 1e9 Hz')


def not_negative(text: str) -> float:
    """Parse a number from 0 on."""
    return _number(text, lambda value: 0 <= value < math.inf, 'number from 0 on')


def stamp_s(text: str) -> float:
    """Parse seconds since 1970 that the stamp of a message can hold."""
    return _number(text, lambda value: 0 <= value < MAX_STAMP_S, 'time in seconds from 0 to 2^31')


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    return _number(text, lambda value: 0 <= value <= 1, 'number from 0 to 1')


def _number(text: str, fits: Callable[[float], bool], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f'{text!r} is no {what}')
    return value


def count(text: str) -> int:
    """Parse a number of things, one at least."""
    if not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def _bits(text: str) -> int:
    if not (text.isdigit() and LEAST_BITS <= int(text) <= FULL_BITS):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of bits from {LEAST_BITS} to {FULL_BITS}'
        )
    return int(text)


def size_wh(text: str) -> tuple[int, int]:
    """Parse WxH, a size in pixels."""
    found = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text.lower())
    if not found or not all(1 <= int(side) <= MAX_SIDE for side in found.groups()):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no size; expected WxH such as 1024x512, each from 1 to {MAX_SIDE}'
        )
    return int(found[1]), int(found[2])


def _size_hw(text: str) -> tuple[int, int]:
    return size_wh(text)[::-1]


def topic_name(text: str) -> str:
    """Parse an absolute topic name."""
    if not re.fullmatch(r'(/[A-Za-z_][A-Za-z0-9_]*)+', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no absolute topic name; expected one like /camera/image'
        )
    return text
