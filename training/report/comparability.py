# SPDX-License-Identifier: Apache-2.0
"""What of the runs may not be compared, found from their settings and tags.

A trait is what two runs must have in common for some of their figures to be comparable. Figures
are ranked only among runs that agree in all traits of their topic.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from training.report.records import Record

#: Tags of the data a run was scored on and trained on; the last is for both.
VAL_FINGERPRINT: Final = 'val_fingerprint'
TRAIN_FINGERPRINT: Final = 'train_fingerprint'
DATA_FINGERPRINT: Final = 'data_fingerprint'
UNKNOWN: Final = 'not known'


class Topic(Enum):
    """Parts of the report that a caveat can belong to."""

    LOSS = 'losses'
    QUALITY = 'scores'
    INFERENCE = 'speed of inference'
    COST = 'speed, time and memory of training'
    EPOCHS = 'epochs'
    ORIGIN = 'what a difference comes from'


@dataclass(frozen=True)
class Trait:
    """Something runs must agree in; `value` says it in words, which are shown."""

    topics: tuple[Topic, ...]
    value: Callable[[Record], str]
    warning: str


@dataclass(frozen=True)
class Caveat:
    """A difference between the runs, and what follows from it."""

    topics: tuple[Topic, ...]
    text: str


def loss_kind(record: Record) -> str:
    """What a run minimises, in words."""
    kind = record.tags.get('loss_kind') or _kind_of_family(record)
    if record.param('family') == 'mask2former':
        return kind
    hardest = record.number('hardest', 1.0)
    balance = record.number('class_balance', 0.0)
    return (
        kind
        + (f', hardest {100 * hardest:g} % of the pixels' if hardest < 1 else '')
        + (f', classes weighted by frequency^-{balance:g}' if balance else '')
    )


def _kind_of_family(record: Record) -> str:
    if not record.param('family'):
        return UNKNOWN
    if record.param('family') == 'mask2former':
        return 'set loss'
    dice = record.number('dice', 0.0)
    return 'cross-entropy' + (f' + {dice:g} Dice' if dice else '')


def _scheme(record: Record) -> str:
    return record.param('label_scheme', UNKNOWN)


def val_data(record: Record) -> str:
    """Data set and fingerprint of what the figures are measured on: the first validation set."""
    prints = (record.tags.get(VAL_FINGERPRINT) or record.tags.get(DATA_FINGERPRINT, '')).split()
    names = [key.split('.')[0] for key in record.inner('val')]
    name = names[0] if len(set(names)) == 1 else 'validation data'
    return f'{name}, fingerprint {prints[0][:12]}' if prints else UNKNOWN


def _machine(record: Record) -> str:
    return record.tags.get('machine') or UNKNOWN


def _precision(record: Record) -> str:
    return record.param('precision', UNKNOWN)


def _batch(record: Record) -> str:
    return f'{_shares(record):g} crops of {record.param("crop_hw", UNKNOWN)}'


def _shares(record: Record) -> float:
    """Images in a batch."""
    shares = [key for key in record.inner('train') if key.endswith('.share')]
    return sum(record.number(f'train.{key}', 0) for key in shares)


def _epoch_length(record: Record) -> str:
    """Images that one epoch passes over: the first training set, and its share of a batch."""
    first = record.inner('train.0')
    if not first:
        return UNKNOWN
    of = f'{first.get("set", "?")} {first.get("split", "?")}'
    if first.get('count', 'None') != 'None':
        of += f', {first["count"]} images'
    return (
        f'one pass over {of}, {first.get("share", "?")} of {_shares(record):g} images in a batch'
    )


def _epochs(record: Record) -> str:
    return f'{record.epochs} {"epoch" if record.epochs == 1 else "epochs"}'


def _finished(record: Record) -> str:
    return 'finished' if record.status == 'FINISHED' else f'not finished ({record.status.lower()})'


def _train_data(record: Record) -> str:
    uses = {key.split('.')[0] for key in record.inner('train')}
    names = [
        f'{record.param(f"train.{i}.set", "?")} {record.param(f"train.{i}.split", "?")}'
        for i in sorted(uses, key=lambda i: (len(i), i))
    ]
    prints = record.tags.get(TRAIN_FINGERPRINT, '')
    return ' and '.join(names) + (f' (fingerprint {prints})' if prints else '') or UNKNOWN


def _revision(record: Record) -> str:
    return (record.tags.get('git_revision') or UNKNOWN)[:12]


#: The warnings are followed by which runs have what.
TRAITS: Final = (
    Trait(
        (Topic.LOSS,),
        loss_kind,
        'The losses are of different kinds and may not be compared; across kinds, a lower loss '
        'does not mean a better model.',
    ),
    Trait(
        (Topic.LOSS, Topic.QUALITY),
        _scheme,
        'The runs learn different label schemes, so their scores and losses are over different '
        'classes and may not be compared.',
    ),
    Trait(
        (Topic.LOSS, Topic.QUALITY, Topic.INFERENCE),
        val_data,
        'The runs are not known to be validated on the same data, so their scores, validation '
        'losses and inference speeds may not be compared.',
    ),
    Trait(
        (Topic.INFERENCE, Topic.COST),
        _machine,
        'Speed, time and memory are not known to be measured on one kind of machine and may not '
        'be compared.',
    ),
    Trait(
        (Topic.INFERENCE, Topic.COST),
        _precision,
        'The runs compute in different precisions, so speed, time and memory may not be compared '
        'as those of the models alone.',
    ),
    Trait(
        (Topic.COST,),
        _batch,
        'The runs train on crops or batches of different sizes, so images per second, time and '
        'memory of the training may not be compared.',
    ),
    Trait(
        (Topic.EPOCHS,),
        _epoch_length,
        'Epochs are of different lengths: the same epoch number, and the time of an epoch, do not '
        'mean the same amount of training.',
    ),
    Trait(
        (Topic.EPOCHS,),
        _epochs,
        'The runs did not go through the same number of epochs: the longer ones had more '
        'chances to find a good epoch, and their training times are for more work.',
    ),
    Trait(
        (Topic.EPOCHS,),
        _finished,
        'Not all runs are finished; what they show so far is not their result.',
    ),
    Trait(
        (Topic.ORIGIN,),
        _train_data,
        'The runs are trained on different data: a better score may come from the data and not '
        'from the model.',
    ),
    Trait(
        (Topic.ORIGIN,),
        _revision,
        'The runs are of different revisions of the code, which may have changed more than the '
        'settings show.',
    ),
)
#: A run with a tag missing is like no other in this, not even another such run.
_MAY_BE_UNKNOWN: Final = (val_data, _machine)


def caveats(records: Sequence[Record]) -> list[Caveat]:
    """The differences that forbid or limit a comparison; none for a single run."""
    return [
        Caveat(trait.topics, f'{trait.warning} {_who_has_what(records, trait)}')
        for trait in TRAITS
        if len(records) > 1 and _differs(records, trait)
    ]


def of_topics(found: Sequence[Caveat], *topics: Topic) -> list[Caveat]:
    """The caveats that belong to some of the topics."""
    return [caveat for caveat in found if set(caveat.topics) & set(topics)]


def group(record: Record, *topics: Topic) -> Hashable:
    """Equal for runs whose figures of these topics may be compared."""
    return tuple(
        record.letter if _is_unknown(trait, value) else value
        for trait in TRAITS
        if set(trait.topics) & set(topics)
        for value in (trait.value(record),)
    )


def _is_unknown(trait: Trait, value: str) -> bool:
    return trait.value in _MAY_BE_UNKNOWN and value == UNKNOWN


def _differs(records: Sequence[Record], trait: Trait) -> bool:
    values = {trait.value(record) for record in records}
    return len(values) > 1 or any(_is_unknown(trait, value) for value in values)


def _who_has_what(records: Sequence[Record], trait: Trait) -> str:
    letters: dict[str, list[str]] = {}
    for record in records:
        letters.setdefault(trait.value(record), []).append(record.letter)
    return '; '.join(f'{", ".join(who)}: {value}' for value, who in letters.items()) + '.'
