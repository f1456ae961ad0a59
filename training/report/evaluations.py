# SPDX-License-Identifier: Apache-2.0
"""Results of `training.evaluate` for the runs' checkpoints, side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.frame_counts import FRAME_COUNTS_FILE
from training.report.charts import Table
from training.report.confidence import Scored, difference_table
from training.report.records import Record
from training.report.samples import read_samples
from training.report.summary import ABSENT, score

FOLDER: Final = 'evaluation'
FILE: Final = 'scores.json'
#: Keys of scores.json with values that comparable evaluations share.
CONDITIONS: Final = ('data', 'mode', 'label_scheme', 'frames')
FIGURES: Final = 'figures'
INTERVAL: Final = 'mIoU, 95 % interval'


@dataclass(frozen=True)
class EvaluationTable:
    """Evaluations of one name; a row has the figure of each run, `caveats` are warnings.

    `differences` are those in mIoU between runs on the same images; None if there are none.
    """

    name: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    caveats: tuple[str, ...]
    differences: Table | None


def evaluations(records: Sequence[Record]) -> tuple[list[EvaluationTable], list[str]]:
    """Return the evaluations of all runs by name, and sentences about missing ones."""
    contents: dict[str, dict[str, Mapping[str, Any]]] = {}
    missing = []
    for record in records:
        names = [path.removeprefix(f'{FOLDER}/') for path in record.artifacts.names(FOLDER)]
        if not names:
            missing.append(f'{record.title} has no evaluation of its checkpoint among its files.')
        for name in names:
            content = _read(record, f'{FOLDER}/{name}/{FILE}')
            if content is None:
                missing.append(f'{record.title} has no readable {FOLDER}/{name}/{FILE}.')
            else:
                contents.setdefault(name, {})[record.letter] = content
    return [_evaluation(name, c, records) for name, c in sorted(contents.items())], missing


def _read(record: Record, path: str) -> Mapping[str, Any] | None:
    try:
        content = record.artifacts.read_json(path)
    except ValueError:
        return None
    valid = isinstance(content, dict) and isinstance(content.get(FIGURES), dict)
    return content if valid else None


def _evaluation(
    name: str, contents: Mapping[str, Mapping[str, Any]], records: Sequence[Record]
) -> EvaluationTable:
    letters = [record.letter for record in records]
    keys = dict.fromkeys(key for content in contents.values() for key in content[FIGURES])
    conditions = {key: [_text(contents, letter, key) for letter in letters] for key in CONDITIONS}
    figures = {key: [_figure(contents, letter, key) for letter in letters] for key in keys}
    runs = [_scored(r, name, contents[r.letter]) for r in records if r.letter in contents]
    samples = {run.title: run.sample for run in runs}
    if any(samples.values()):
        known = [samples.get(record.title) for record in records]
        conditions[INTERVAL] = [ABSENT if s is None else str(s.interval) for s in known]
    caveats = (
        f'The evaluations differ in {key.replace("_", " ")} and cannot be compared.'
        for key in CONDITIONS
        if len({str(content.get(key)) for content in contents.values()}) > 1
    )
    rows = {**conditions, **figures}
    return EvaluationTable(
        name, tuple((key, tuple(values)) for key, values in rows.items()), tuple(caveats),
        difference_table(runs),
    )  # fmt: skip


def _scored(record: Record, name: str, content: Mapping[str, Any]) -> Scored:
    """Return the score of an evaluation with its resamples."""
    miou = content[FIGURES].get('mIoU')
    miou = miou if isinstance(miou, int | float) and math.isfinite(miou) else None
    counts = record.artifacts.read(f'{FOLDER}/{name}/{FRAME_COUNTS_FILE}')
    return Scored(record.title, miou, read_samples(counts, miou).first)


def _text(contents: Mapping[str, Mapping[str, Any]], letter: str, key: str) -> str:
    return str(contents[letter].get(key, ABSENT)) if letter in contents else ABSENT


def _figure(contents: Mapping[str, Mapping[str, Any]], letter: str, key: str) -> str:
    value = contents[letter][FIGURES].get(key) if letter in contents else None
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ABSENT
    return score(value)
