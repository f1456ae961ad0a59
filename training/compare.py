# SPDX-License-Identifier: Apache-2.0
"""Write a report that compares tracked runs, as one self-contained HTML page.

python -m training.compare runs/unet runs/deeplabv3plus --output report.html
python -m training.compare --study segmentation --output report.html
python -m training.compare --study segmentation unet deeplabv3plus --output report.html

Searches, among the runs or in the study, get a chapter of their own.
"""

import argparse
import sys
from pathlib import Path

from segmentation_node.atomic import replacing
from segmentation_node.errors import SegmentationError, SettingError
from training.report.page import render
from training.report.records import read_records
from training.report.selection import choose
from training.tracking import client, shown_uri


def write_page(page: str, path: Path) -> None:
    """Write the page atomically; raises SettingError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            aside.write_text(page, encoding='utf-8')
    except OSError as error:
        raise SettingError(
            f'{path} cannot be written ({error}); choose another file as --output'
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Run the command line: select runs and write their report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'runs', nargs='*', metavar='RUN',
        help='id, folder, or name (in --study) of a run or of a search',
    )  # fmt: skip
    parser.add_argument(
        '--study', help='MLflow experiment of the runs; without RUN, all of its finished runs'
    )
    parser.add_argument(
        '--trials', action='store_true', help='without RUN, include the trials of searches'
    )
    parser.add_argument('--remark', default='', metavar='TEXT', help='sentence on top of the page')
    parser.add_argument('--output', type=Path, required=True, help='HTML file to write')
    arguments = parser.parse_args(argv)
    if not arguments.runs and arguments.study is None:
        parser.error('name the runs to compare, or a study with --study')
    try:
        store = client()
        choice = choose(store, arguments.runs, arguments.study, trials=arguments.trials)
        records = read_records(store, choice.runs)
        searches = read_records(store, choice.searches)
        page = render(
            records, choice.left_out, shown_uri(), searches=searches, remark=arguments.remark
        )
        write_page(page, arguments.output)
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for sentence in choice.left_out:
        print(sentence)
    print(f'{arguments.output}: {", ".join(record.title for record in records)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
