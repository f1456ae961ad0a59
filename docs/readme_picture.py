# SPDX-License-Identifier: Apache-2.0
"""Command that draws the picture of README.md from a recording of the demo."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pictures import write_picture

from segmentation_node import topics
from segmentation_node.demo.recording import Recording
from segmentation_node.demo.results import contact_sheet
from segmentation_node.errors import SegmentationError

ROWS: Final = 4
TITLE: Final = 'Results of the node on a street'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python docs/readme_picture.py',
        description='Draw frames of a recording of the demo as a JPEG.',
    )
    parser.add_argument('bag', type=Path, help='segmentation.mcap of a demo')
    parser.add_argument('picture', type=Path, help='JPEG to write')
    args = parser.parse_args(argv)
    try:
        recording = Recording(args.bag, f'/{topics.IMAGE}')
        sheet = contact_sheet(recording, TITLE, recording.scores(), ROWS)
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        write_picture(args.picture, sheet)
    except (SegmentationError, OSError) as error:
        print(f'readme_picture: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
