# SPDX-License-Identifier: Apache-2.0
"""Manifest of the results: a JSON file for each bag, which records how far it is."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from segmentation_node.bags.topic import METADATA_FILE, Span
from segmentation_node.bags.writer import DataFileSummary, bag_information, metadata_yaml
from segmentation_node.errors import BagError, ForeignError, SettingError
from segmentation_node.fleet.inputs import BagInput
from segmentation_node.fleet.parts import BagPlan
from segmentation_node.fleet.statistics import LabelStatistics
from segmentation_node.fleet.store import Store
from segmentation_node.labels import LabelScheme
from segmentation_node.untrusted import parse_json

#: Folder of the manifest in the output.
FOLDER: Final = 'manifest'
#: A bag of many parts has a long record.
_MAX_BYTES: Final = 64 << 20
_REQUIRED: Final = {'bag', 'state', 'spans_ns', 'parts'}
#: Bags that an error message lists.
_MAX_LISTED: Final = 5

#: States of a bag: some parts are segmented; all are; it cannot be labeled.
PARTIAL: Final = 'partial'
DONE: Final = 'done'
FAILED: Final = 'failed'


class BagRecord:
    """Record of a bag in the manifest; `content` is what its file holds."""

    def __init__(self, bag: BagInput, content: dict[str, Any]) -> None:
        self.bag, self.content = bag, content

    @classmethod
    def new(cls, bag: BagInput, settings: Mapping[str, Any], plan: BagPlan) -> 'BagRecord':
        """Return the record of a bag of which no part is segmented."""
        content = {
            'bag': bag.identity(), **settings, 'state': PARTIAL, 'error': '',
            'camera': plan.camera, 'frames': plan.frames, 'messages': plan.messages,
            'spans_ns': [list(span) for span in plan.spans], 'parts': {},
        }  # fmt: skip
        return cls(bag, content)

    @property
    def state(self) -> str:
        """PARTIAL, DONE or FAILED."""
        return str(self.content['state'])

    @property
    def spans(self) -> list[Span]:
        """All parts."""
        return [Span(*limits) for limits in self.content['spans_ns']]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Reports of the parts that are segmented, in order."""
        return [report for _, report in sorted(
            self.content['parts'].items(), key=lambda item: int(item[0])
        )]  # fmt: skip

    @property
    def missing(self) -> list[int]:
        """Numbers of the parts that are not segmented yet."""
        there = set(map(int, self.content['parts']))
        return [index for index in range(len(self.spans)) if index not in there]

    @property
    def statistics(self) -> LabelStatistics:
        """Statistics of the parts that are segmented."""
        each = (LabelStatistics.from_json(report['statistics']) for report in self.parts)
        return sum(each, LabelStatistics())

    def total(self, key: str) -> Any:
        """Return the sum of a number of all reports."""
        return sum(report[key] for report in self.parts)

    def add(self, index: int, report: Mapping[str, Any]) -> None:
        """Add the report of a part."""
        self.content['parts'][str(index)] = dict(report)

    def files(self) -> list[DataFileSummary]:
        """Return the data files of the result, in order."""
        return [
            DataFileSummary(report['file'][0], tuple(report['file'][1]), report['file'][2])
            for report in self.parts
            if report['file'] is not None
        ]

    def malformed(self) -> list[str]:
        """Return a line for each malformed frame that is known by number."""
        several = len(self.spans) > 1
        return [
            f'{self.bag.name}: ' + (f'part {index}, {line}' if several else line)
            for index, report in sorted(self.content['parts'].items(), key=lambda p: int(p[0]))
            for line in report['malformed_frames']
        ]

    def finish(self, scheme: LabelScheme) -> None:
        """Record that all parts are segmented, with figures of the whole bag.

        Raises:
            BagError: the parts do not have all messages.
        """
        copied = self.total('messages')
        if len(self.spans) > 1 and copied != self.content['messages']:
            raise BagError(
                f'{self.bag.uri}: its parts have {copied} messages, but the bag has '
                f'{self.content["messages"]}: the times in its index are wrong; label it with '
                f'--part-minutes 0'
            )
        statistics = self.statistics
        self.content |= {
            'state': DONE,
            'segmented': self.total('segmented'),
            'malformed': self.total('malformed'),
            'class_shares': statistics.shares(scheme),
            'mean_confidence': statistics.confidence,
            'out_of_domain': statistics.out_of_domain,
            'seconds': round(self.total('seconds'), 3),
            'finished': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        }

    def fail(self, error: str) -> None:
        """Record that the bag cannot be labeled."""
        self.content |= {'state': FAILED, 'error': error}


class Manifest:
    """Records of all bags in an output.

    `settings` are the model and the parameters, which the results depend on.
    """

    def __init__(self, output: Store, settings: Mapping[str, Any], scheme: LabelScheme) -> None:
        self._output, self._settings, self._scheme = output, dict(settings), scheme
        self._known = {
            name: _parsed(output.place(name), content)
            for name, content in output.read_all(FOLDER, '.json').items()
        }

    def check(self, bags: Sequence[BagInput], overwrite: bool) -> None:
        """Raise SettingError where results were made otherwise, unless they may be replaced."""
        others = [bag.name for bag in bags if self._is_made_otherwise(bag)]
        if others and not overwrite:
            more = f' and {len(others) - _MAX_LISTED} more' if len(others) > _MAX_LISTED else ''
            raise SettingError(
                f'{self._output.uri} has labels of another model or other parameters for '
                f'{", ".join(others[:_MAX_LISTED])}{more}; choose another --output, or allow '
                f'--overwrite'
            )

    def _is_made_otherwise(self, bag: BagInput) -> bool:
        content = self._known.get(_file_of(bag))
        return content is not None and not _has(content, self._settings)

    def find(self, bag: BagInput) -> BagRecord | None:
        """Return the record of a bag that is unchanged and has not failed; None without one."""
        content = self._known.get(_file_of(bag))
        wanted = {**self._settings, 'bag': bag.identity()}
        if content is None or content['state'] == FAILED or not _has(content, wanted):
            return None
        if content['state'] == DONE and not self._output.exists(f'{bag.name}/{METADATA_FILE}'):
            return None
        return BagRecord(bag, content)

    def begin(self, bag: BagInput, plan: BagPlan) -> BagRecord:
        """Record that a bag is to be labeled; earlier results of it are removed.

        Raises:
            BagError: the output has a folder of this name that is not in the manifest.
        """
        earlier = self._known.get(_file_of(bag))
        was_begun = earlier is not None and earlier['spans_ns']
        if not was_begun and self._output.exists(bag.name):
            raise BagError(
                f'{self._output.place(bag.name)} exists, but is not in the manifest; remove it, '
                f'or choose another --output'
            )
        if earlier is not None:
            self._output.remove(f'{bag.name}/{METADATA_FILE}')
            for file in BagRecord(bag, earlier).files():
                self._output.remove(f'{bag.name}/{file.name}')
        record = BagRecord.new(bag, self._settings, plan)
        self.write(record)
        return record

    def write(self, record: BagRecord) -> None:
        """Write a record."""
        name = _file_of(record.bag)
        self._known[name] = record.content
        self._output.write(name, json.dumps(record.content, indent=1).encode())

    def finish(self, record: BagRecord) -> None:
        """Make a bag of the data files of all parts; raises BagError."""
        record.finish(self._scheme)
        information = bag_information('mcap', record.files())
        self._output.write(
            f'{record.bag.name}/{METADATA_FILE}', metadata_yaml(information).encode()
        )
        self.write(record)
        self._output.remove_unfinished(record.bag.name)

    def fail(self, bag: BagInput, record: BagRecord | None, error: str) -> BagRecord:
        """Record that a bag cannot be labeled; its data files stay known."""
        if record is None:
            record = BagRecord.new(bag, self._settings, BagPlan('', 0, 0, ()))
            earlier = self._known.get(_file_of(bag), {})
            record.content |= {key: earlier[key] for key in ('spans_ns', 'parts') if earlier}
        record.fail(error)
        self.write(record)
        return record


def _file_of(bag: BagInput) -> str:
    return f'{FOLDER}/{bag.name}.json'


def _parsed(place: str, content: bytes) -> dict[str, Any]:
    try:
        parsed = parse_json(content, max_bytes=_MAX_BYTES)
        if not isinstance(parsed, dict) or not parsed.keys() >= _REQUIRED:
            raise ForeignError(f'it has not all of {", ".join(sorted(_REQUIRED))}')
    except ForeignError as error:
        raise BagError(
            f'{place} is no record of a bag ({error}); remove it to label its bag again'
        ) from error
    return parsed


def _has(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(content.get(key) == value for key, value in wanted.items())
