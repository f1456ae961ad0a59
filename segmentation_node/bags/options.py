# SPDX-License-Identifier: Apache-2.0
"""Options that the commands of bags share."""

import argparse
from pathlib import Path

from segmentation_node.bags.messages import MAX_STAMP_S
from segmentation_node.bags.writer import STORAGE_FILES
from segmentation_node.cli import add_quiet_option, number


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the bag to read, and --salvage."""
    parser.add_argument(
        'input', type=Path, metavar='BAG',
        help='bag to read: a folder with metadata.yaml, or a .mcap or .db3 file',
    )  # fmt: skip
    parser.add_argument(
        '--salvage', action='store_true',
        help='read an unfinished recording: a folder without metadata.yaml, and an MCAP file that '
        'was cut short, up to the cut',
    )  # fmt: skip


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --output, --storage, --overwrite and --quiet."""
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='BAG',
        help='bag to write: a folder, or a single file if the name ends in .mcap',
    )  # fmt: skip
    parser.add_argument(
        '--storage',
        choices=sorted(STORAGE_FILES),
        default='mcap',
        help='storage format of a bag folder',
    )
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace an existing bag; other files are never deleted',
    )  # fmt: skip
    add_quiet_option(parser)


def stamp_s(text: str) -> float:
    """Parse seconds since 1970 that the stamp of a message can hold."""
    return number(text, lambda value: 0 <= value < MAX_STAMP_S, 'time in seconds from 0 to 2^31')
