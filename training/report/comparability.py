# SPDX-License-Identifier: Apache-2.0
"""Comparability of the runs, determined from their settings and tags.

A trait is a property that two runs must share for some of their figures to be comparable. Figures
are ranked only among runs that agree in all traits of their aspect.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from training.report.records import Record

#: Tags with fingerprints of the validation data, the training data, or both.
VAL_FINGERPRINT: Final = 'val_fingerprint'
TRAIN_FINGERPRINT: Final = 'train_fingerprint'
DATA_FINGERPRINT: Final = 'data_fingerprint'
UNKNOWN: Final = 'unknown'


class Aspect(Enum):
    """Part of the report that a caveat applies to."""

    LOSS = 'losses'
    QUALITY = 'scores'
    INFERENCE = 'inference speed'
    COST = 'training speed, time and memory'
    EPOCHS = 'epochs'
    ORIGIN = 'cause of a difference'


@dataclass(frozen=True)
class Trait:
    """Property that comparable runs share; `value` returns it as text for the report."""

    aspects: tuple[Aspect, ...]
    value: Callable[[Record], str]
    warning: str


@dataclass(frozen=True)
class Caveat:
    """Difference between the runs and its consequence for comparisons."""

    aspects: tuple[Aspect, ...]
    text: str


def loss_kind(record: Record) -> str:
    """Describe the loss that a run minimizes."""
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
    """Return name and fingerprint of the first validation set, which the figures are from."""
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
    """Return the number of images in a batch."""
    shares = [key for key in record.inner('train') if key.endswith('.share')]
    return sum(record.number(f'train.{key}', 0) for key in shares)


def _epoch_length(record: Record) -> str:
    """Describe the images of one epoch: the first training set, and its share of a batch."""
    first = record.inner('train.0')
    if not first:
        return UNKNOWN
    data = f'{first.get("set", "?")} {first.get("split", "?")}'
    if first.get('count', 'None') != 'None':
        data += f', {first["count"]} images'
    return (
        f'one pass over {data}, {first.get("share", "?")} of {_shares(record):g} images in a batch'
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


#: Each warning is followed by the values of the runs.
TRAITS: Final = (
    Trait(
        (Aspect.LOSS,),
        loss_kind,
        'The losses are of different kinds and cannot be compared; across kinds, a lower loss '
        'does not mean a better model.',
    ),
    Trait(
        (Aspect.LOSS, Aspect.QUALITY),
        _scheme,
        'The runs learn different label schemes, so their scores and losses cover different '
        'classes and cannot be compared.',
    ),
    Trait(
        (Aspect.LOSS, Aspect.QUALITY, Aspect.INFERENCE),
        val_data,
        'It is not certain that the runs are validated on the same data, so their scores, '
        'validation losses and inference speeds cannot be compared.',
    ),
    Trait(
        (Aspect.INFERENCE, Aspect.COST),
        _machine,
        'It is not certain that speed, time and memory are measured on the same kind of machine, '
        'so they cannot be compared.',
    ),
    Trait(
        (Aspect.INFERENCE, Aspect.COST),
        _precision,
        'The runs use different precisions, so speed, time and memory do not compare the models '
        'alone.',
    ),
    Trait(
        (Aspect.COST,),
        _batch,
        'The runs train on crops or batches of different sizes, so images per second, time and '
        'memory of training cannot be compared.',
    ),
    Trait(
        (Aspect.EPOCHS,),
        _epoch_length,
        'Epochs have different lengths: neither the epoch number nor the time per epoch stands '
        'for the same amount of training.',
    ),
    Trait(
        (Aspect.EPOCHS,),
        _epochs,
        'The runs have different numbers of epochs: longer runs have more chances of a good '
        'epoch, and their training times cover more work.',
    ),
    Trait(
        (Aspect.EPOCHS,),
        _finished,
        'Some runs are not finished; their figures so far are not final.',
    ),
    Trait(
        (Aspect.ORIGIN,),
        _train_data,
        'The runs are trained on different data: a better score may come from the data and not '
        'from the model.',
    ),
    Trait(
        (Aspect.ORIGIN,),
        _revision,
        'The runs use different revisions of the code, which may differ in more than the settings '
        'show.',
    ),
)
#: Traits in which an unknown value equals no other value, not even another unknown one.
_UNIQUE_IF_UNKNOWN: Final = (val_data, _machine)


def caveats(records: Sequence[Record]) -> list[Caveat]:
    """Return the differences that prevent or limit a comparison; none for a single run."""
    return [
        Caveat(trait.aspects, f'{trait.warning} {_letters_by_value(records, trait)}')
        for trait in TRAITS
        if len(records) > 1 and _differs(records, trait)
    ]


def of_aspects(all_caveats: Sequence[Caveat], *aspects: Aspect) -> list[Caveat]:
    """Return the caveats that apply to any of the aspects."""
    return [caveat for caveat in all_caveats if set(caveat.aspects) & set(aspects)]


def group(record: Record, *aspects: Aspect) -> Hashable:
    """Return a key that is equal for runs with comparable figures of these aspects."""
    return tuple(
        record.letter if _is_unknown(trait, value) else value
        for trait in TRAITS
        if set(trait.aspects) & set(aspects)
        for value in (trait.value(record),)
    )


def _is_unknown(trait: Trait, value: str) -> bool:
    return trait.value in _UNIQUE_IF_UNKNOWN and value == UNKNOWN


def _differs(records: Sequence[Record], trait: Trait) -> bool:
    values = {trait.value(record) for record in records}
    return len(values) > 1 or any(_is_unknown(trait, value) for value in values)


def _letters_by_value(records: Sequence[Record], trait: Trait) -> str:
    letters: dict[str, list[str]] = {}
    for record in records:
        letters.setdefault(trait.value(record), []).append(record.letter)
    return '; '.join(f'{", ".join(runs)}: {value}' for value, runs in letters.items()) + '.'
