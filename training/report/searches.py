# SPDX-License-Identifier: Apache-2.0
"""Searches in the report: table of trials, parallel coordinates, chosen values."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.parallel_coordinates import PARALLEL_FILE
from training.report.charts import Table
from training.report.pictures import EmbeddedPicture, embedded
from training.report.records import Record
from training.report.summary import ABSENT
from training.search_results import TABLE_FILE, Row, best_of, cells, format_value, read_table
from training.tracking import SEARCH_TAG

#: Maximum size of a picture that is embedded.
MAX_PICTURE_BYTES: Final = 2**21
PNG: Final = b'\x89PNG\r\n\x1a\n'


@dataclass(frozen=True)
class SearchChapter:
    """One search: its trials by score, the chosen values with their ranges, and remarks."""

    name: str
    trials: Table
    chosen: Table | None
    picture: EmbeddedPicture | None
    remarks: tuple[str, ...]


def chapters(searches: Sequence[Record]) -> tuple[list[SearchChapter], list[str]]:
    """Return a chapter for each search with a readable table, and sentences about the others."""
    found, missing = [], []
    for search in searches:
        try:
            rows = read_table(search.artifacts.read(TABLE_FILE) or b'')
        except ValueError as error:
            missing.append(f'{search.name} has no readable {TABLE_FILE}: {error}.')
            continue
        found.append(_chapter(search, rows))
    return found, missing


def _chapter(search: Record, rows: Sequence[Row]) -> SearchChapter:
    fields = list(dict.fromkeys(name for row in rows for name in row.values))
    head, *lines = cells(rows, fields)
    titles = ('Trial', *head[1:-2], 'State', 'Time')
    best = best_of(rows)
    number = None if best is None else str(best.number)
    marked = [[f'{line[0]} (chosen)', *line[1:]] if line[0] == number else line for line in lines]
    name = f'trials of {search.name}'
    return SearchChapter(
        search.name,
        Table(titles, tuple(tuple(text or ABSENT for text in line) for line in marked)),
        None if best is None else _chosen(search, best),
        _picture(search, f'Parallel coordinates of the {name}; its numbers are in the table.'),
        tuple(_remarks(search, rows)),
    )


def _chosen(search: Record, best: Row) -> Table:
    rows = tuple(
        (name, search.param(name, ABSENT), format_value(value))
        for name, value in best.values.items()
    )
    return Table(('Field', 'Searched', 'Chosen'), rows)


def _remarks(search: Record, rows: Sequence[Row]) -> list[str]:
    scored = sorted((row.miou for row in rows if row.miou is not None), reverse=True)
    remarks = []
    planned = search.tags.get(SEARCH_TAG, '')
    ended = sum(row.state != 'open' for row in rows)
    if planned.isdecimal() and ended < int(planned):
        remarks.append(f'{ended} of {planned} trials have ended; the choice is not final.')
    if len(scored) > 1:
        lead = 100 * (scored[0] - scored[1])
        remarks.append(
            f'The chosen trial is {lead:.1f} points of mIoU above the second and '
            f'{100 * (scored[0] - scored[-1]):.1f} above the last; each was trained once.'
        )
    remarks.append(
        f'{len(scored)} scored trials are too few to say which field matters most: the fields '
        f'vary together, so no ranking of the fields is shown.'
    )
    return remarks


def _picture(search: Record, alt: str) -> EmbeddedPicture | None:
    data = search.artifacts.read(PARALLEL_FILE)
    if data is None or len(data) > MAX_PICTURE_BYTES or not data.startswith(PNG):
        return None
    return embedded('png', data, alt, struct.unpack('>II', data[16:24]))
