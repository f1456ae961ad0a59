# SPDX-License-Identifier: Apache-2.0
"""Order of the work: which part of which bag is next, and the results; it knows no Ray."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from segmentation_node.bags.topic import Span
from segmentation_node.errors import BagError
from segmentation_node.fleet.inputs import BagInput
from segmentation_node.fleet.manifest import DONE, FAILED, BagRecord, Manifest
from segmentation_node.fleet.parts import BagPlan

#: Workers that a job may lose before its bag fails.
MAX_ATTEMPTS: Final = 3


class Job(NamedTuple):
    """Work of one call: a part of a bag; without a part, the bag is inspected."""

    bag: BagInput
    part: int | None = None
    span: Span = Span()
    attempts: int = 0

    @property
    def file(self) -> str:
        """Data file of the part in the output."""
        folder_name = self.bag.name.rpartition('/')[2]
        return f'{self.bag.name}/{folder_name}_{self.part}.mcap'


class Labeling:
    """Bags to label, and their records.

    Parts of the bag that a worker has at hand come first, then those of other bags that were
    begun, then the next bag, the largest first.
    """

    def __init__(
        self,
        bags: Sequence[BagInput],
        manifest: Manifest,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take up the work where an earlier run has left it.

        Args:
            bags: bags to label.
            manifest: records of earlier runs.
            tell: told of bags that fail, and of warnings.
        """
        self._manifest, self.tell = manifest, tell
        self.bags = len(bags)
        self.records: dict[BagInput, BagRecord] = {}
        self._parts: dict[BagInput, deque[Job]] = {}
        self._inspections: deque[Job] = deque()
        #: Jobs that were handed out.
        self._running = 0
        #: Number of bags that were labeled earlier.
        self.skipped = 0
        #: Camera messages of the bags that were inspected, and those that are done.
        self.frames_known = self.frames_done = 0
        #: Frames that this run has segmented.
        self.segmented = 0
        self._warned: set[str] = set()
        for bag in sorted(bags, key=lambda bag: -sum(file.size for file in bag.files)):
            self._take_up(bag)

    def _take_up(self, bag: BagInput) -> None:
        record = self._manifest.find(bag)
        if record is None:
            self._inspections.append(Job(bag))
            return
        self.records[bag] = record
        if record.state == DONE:
            self.skipped += 1
            return
        self.frames_known += record.content['frames']
        self.frames_done += record.total('segmented') + record.total('malformed')
        try:
            self._queue(record)
        except BagError as error:
            self._fail(bag, str(error))

    def _queue(self, record: BagRecord) -> None:
        spans, bag = record.spans, record.bag
        self._parts[bag] = deque(Job(bag, index, spans[index]) for index in record.missing)
        self._finish_if_complete(record)

    @property
    def ended(self) -> int:
        """Number of bags that are labeled or have failed."""
        return sum(record.state in (DONE, FAILED) for record in self.records.values())

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for a worker."""
        return len(self._inspections) + sum(map(len, self._parts.values()))

    @property
    def is_finished(self) -> bool:
        """True if no job waits or runs."""
        return not self._running and not self.waiting

    def next_job(self, at_hand: BagInput | None) -> Job | None:
        """Return the next job for a worker that has a bag at hand; None if no job waits."""
        begun = self._parts.get(at_hand) if at_hand is not None else None
        begun = begun or next(filter(None, self._parts.values()), None) or self._inspections
        if not begun:
            return None
        self._running += 1
        return begun.popleft()

    def finish(self, job: Job, result: Any) -> None:
        """Take the result of a job: the plan of an inspection, or the report of a part."""
        self._running -= 1
        if self._has_failed(job.bag):
            return
        try:
            self._record(job, result)
        except BagError as error:
            self._fail(job.bag, str(error))

    def _record(self, job: Job, result: Any) -> None:
        if job.part is None:
            plan: BagPlan = result
            self.frames_known += plan.frames
            record = self.records[job.bag] = self._manifest.begin(job.bag, plan)
            self._queue(record)
            return
        report: Mapping[str, Any] = result
        record = self.records[job.bag]
        record.add(job.part, report)
        self.frames_done += report['segmented'] + report['malformed']
        self.segmented += report['segmented']
        for text in set(report['warnings']) - self._warned:
            self._warned.add(text)
            self.tell(text)
        if record.missing:
            self._manifest.write(record)
        self._finish_if_complete(record)

    def _finish_if_complete(self, record: BagRecord) -> None:
        if not record.missing:
            self._parts.pop(record.bag, None)
            self._manifest.finish(record)

    def fail(self, job: Job, error: str) -> None:
        """Record that a bag cannot be labeled; its other parts are not segmented."""
        self._running -= 1
        if not self._has_failed(job.bag):
            self._fail(job.bag, error)

    def lose(self, job: Job, error: str) -> None:
        """Queue the job of a lost worker again, unless it has lost several."""
        if job.attempts + 1 >= MAX_ATTEMPTS:
            self.fail(job, f'{MAX_ATTEMPTS} workers were lost on it, the last one by: {error}')
            return
        self._running -= 1
        if self._has_failed(job.bag):
            return
        again = job._replace(attempts=job.attempts + 1)
        if job.part is None:
            self._inspections.appendleft(again)
        else:
            self._parts[job.bag].appendleft(again)

    def _has_failed(self, bag: BagInput) -> bool:
        return bag in self.records and self.records[bag].state == FAILED

    def _fail(self, bag: BagInput, error: str) -> None:
        self._parts.pop(bag, None)
        self.records[bag] = self._manifest.fail(bag, self.records.get(bag), error)
        self.tell(f'failed: {bag.name}: {error}')
