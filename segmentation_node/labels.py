# SPDX-License-Identifier: Apache-2.0
"""Label schemes: the classes, with their published ids, names and colors.

One YAML file per scheme in `config/labels/`, one row per class; every look-up table of the
package derives from these rows.

A pixel's class is coded in four ways, which are converted only here:

- file value: the value in a label file or message, such as a Cityscapes labelId
- published id: the scheme's id of the class, the value in a published label mask
- channel: the index of the class among the network's outputs, in the order of the scheme's rows
- target: the channel as training and scoring see it, or IGNORE for pixels that do not count
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from segmentation_node.arrays import BoolArray, UInt8Array
from segmentation_node.errors import (
    ForeignError,
    ImageError,
    SchemeError,
    counted,
    one_line,
    quoted,
)
from segmentation_node.paths import config_dir
from segmentation_node.untrusted import parse_json, read_yaml

#: Target value of pixels that training and scoring ignore. Not a published id.
IGNORE = 255
#: Number of ids, 0 to 255.
MAX_CLASSES = 256
#: Size limit of the JSON description of a scheme.
MAX_JSON_BYTES = 2**20


@dataclass(frozen=True)
class LabelClass:
    """One class of a scheme: a row of its YAML file.

    `label_ids` are the Cityscapes labelIds that map to the class, `category` is the Cityscapes
    category. A class that is not `learned` has no network channel; a class that is not `scored`
    is excluded from the official scores although it is not void. Objects of a `countable` class
    are instances.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    category: str
    label_ids: tuple[int, ...] = ()
    void: bool = False
    learned: bool = True
    scored: bool = True
    countable: bool = False

    @classmethod
    def from_row(cls, row: object) -> 'LabelClass':
        """Build from a YAML row; raises SchemeError on unknown keys and values out of range."""
        known, shown = {f.name for f in fields(cls)}, f'class row {quoted(row)}'
        if not isinstance(row, dict) or not {'id', 'name', 'color', 'category'} <= set(row):
            raise SchemeError(f'{shown} needs id, name, color, category')
        unknown = ', '.join(sorted(map(str, set(row) - known)))
        if unknown:
            there_are = ', '.join(sorted(known))
            raise SchemeError(f'{shown} has unknown keys {unknown}; there are {there_are}')
        label_ids = row.get('label_ids', ())
        flags = (row[key] for key in ('void', 'learned', 'scored', 'countable') if key in row)
        if not _is_byte(row['id']) or not _is_list_of(row['color'], _is_byte, 3):
            raise SchemeError(f'{shown}: id and the 3 colors must be integers in 0..255')
        # YAML does not read a bare no, on or 5 as text.
        if not isinstance(row['name'], str) or not isinstance(row['category'], str):
            raise SchemeError(f'{shown}: name and category must be text; put it in quotes')
        if not _is_list_of(label_ids, _is_byte) or not all(isinstance(f, bool) for f in flags):
            raise SchemeError(
                f'{shown}: label_ids must be a list of integers in 0..255, and void, '
                f'learned, scored and countable true or false'
            )
        return cls(**{**row, 'color': tuple(row['color']), 'label_ids': tuple(label_ids)})


def _is_byte(value: object) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_list_of(value: object, check: Callable[[object], bool], length: int | None = None) -> bool:
    if not isinstance(value, list | tuple) or not all(map(check, value)):
        return False
    return length in (None, len(value))


@dataclass(frozen=True)
class LabelScheme:
    """Set of classes; label masks contain their ids, and networks have a channel for each.

    `ignored` are values in label files that mean "not annotated".
    """

    name: str
    classes: tuple[LabelClass, ...]
    description: str = ''
    ignored: tuple[int, ...] = ()
    _by_name: dict[str, LabelClass] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, values in (
            ('id', [str(c.id) for c in self.classes]),
            ('name', [c.name for c in self.classes]),
            ('labelId', [str(i) for c in self.classes for i in c.label_ids]),
        ):
            twice = sorted(v for v, count in Counter(values).items() if count > 1)
            if twice:
                raise SchemeError(
                    f'label scheme {self.name} has {what} {", ".join(twice)} twice; '
                    f'give each to one class'
                )
        if not any(c.void for c in self.classes):
            raise SchemeError(
                f'label scheme {self.name} has no void class; mark the class of the pixels that '
                f'belong to no other with "void: true"'
            )
        if not any(c.learned for c in self.classes):
            raise SchemeError(f'label scheme {self.name} has no class that is learned')
        if both := sorted({c.id for c in self.classes} & set(self.ignored)):
            raise SchemeError(
                f'label scheme {self.name} ignores {", ".join(map(str, both))}, which are ids of '
                f'its classes; remove them from one of the two'
            )
        object.__setattr__(self, '_by_name', {c.name: c for c in self.classes})

    @cached_property
    def void_id(self) -> int:
        """Published id of the void class, for pixels without a class of interest."""
        return next(c.id for c in self.classes if c.void)

    @cached_property
    def learned(self) -> tuple[LabelClass, ...]:
        """Classes that have a network channel, in channel order."""
        return tuple(c for c in self.classes if c.learned)

    @cached_property
    def channel_ids(self) -> UInt8Array:
        """Published id of each network channel, (C,) uint8."""
        return np.array([c.id for c in self.learned], np.uint8)

    def countable_of(self, ids: UInt8Array) -> BoolArray:
        """Return which of some published ids, (C,) uint8, have a countable class, (C,) bool."""
        return np.isin(ids, [c.id for c in self.classes if c.countable])

    @cached_property
    def palette(self) -> UInt8Array:
        """Color of each published id, (256, 3) uint8 RGB; ids without a class are black."""
        palette = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            palette[c.id] = c.color
        return palette

    def id_of(self, name: str) -> int:
        """Return the published id of a class; raises SchemeError with the names that exist."""
        if name not in self._by_name:
            raise SchemeError(
                f'label scheme {self.name} has no class {name!r}; it has '
                + ', '.join(self._by_name)
            )
        return self._by_name[name].id

    def ids_of_names(self, names: Sequence[str], *, countable: bool = False) -> UInt8Array | None:
        """Return the published ids of a network's channels, (C,) uint8, from its class names.

        Case and punctuation do not matter. Returns None unless the names are exactly the learned
        classes, or with `countable`, exactly those of them that are countable.
        """
        plain = [_plain(name) for name in names]
        id_of_plain = {_plain(c.name): c.id for c in self.learned if c.countable or not countable}
        if sorted(plain) != sorted(id_of_plain):
            return None
        return np.array([id_of_plain[name] for name in plain], np.uint8)

    def class_shares(self, labels: UInt8Array) -> list[float]:
        """Return the share of each class, in their order, of the pixels of `labels`, uint8."""
        pixels = np.bincount(labels.ravel(), minlength=256)
        return [float(pixels[c.id] / labels.size) for c in self.classes]

    def unknown_ids(self, labels: UInt8Array) -> dict[int, int]:
        """Return the pixel count in `labels` of each value that this scheme lacks."""
        pixels = np.bincount(labels.ravel(), minlength=256)
        pixels[[*(c.id for c in self.classes), *self.ignored]] = 0
        return {int(value): int(pixels[value]) for value in np.flatnonzero(pixels)}

    def check_ids(self, labels: UInt8Array) -> None:
        """Raise ImageError if `labels`, uint8, contain values that this scheme lacks."""
        if unknown := self.unknown_ids(labels):
            raise ImageError(
                f'labels with values that label scheme {self.name} lacks: {counted(unknown)}; '
                f'its ids are {", ".join(str(c.id) for c in self.classes)}: choose the scheme of '
                f'these labels, or add the values of pixels that are not annotated to its list '
                f'"ignored"'
            )

    def mapping_to(self, target: 'LabelScheme') -> UInt8Array:
        """Return a look-up table from published ids to those of `target`, (256,) uint8.

        A class maps to the class that contains its Cityscapes labelIds, else to the class of the
        same name, else to the only class of its category. Ids without a class map to void.

        Raises:
            SchemeError: a class has no unambiguous counterpart in `target`.
        """
        lut = np.full(256, target.void_id, np.uint8)
        for c in self.classes:
            lut[c.id] = _counterpart(c, self, target)
        return lut

    def channels_from(self, source: 'LabelScheme') -> UInt8Array:
        """Return a look-up table from ids of `source` to this scheme's channels, (256,) uint8.

        Ids without a channel here map to IGNORE. So does void if it is not a learned class of
        `source`, where it means "not annotated".
        """
        channel_of_id = np.full(256, IGNORE, np.uint8)
        channel_of_id[self.channel_ids] = np.arange(len(self.learned))
        lut = channel_of_id[source.mapping_to(self)]
        known = [c.id for c in source.classes if c.learned]
        lut[np.setdiff1d(np.arange(256), known)] = IGNORE
        return lut

    def to_json(self) -> str:
        """Return the JSON object that is published with the masks: name, ids, names, colors."""
        return json.dumps(
            {
                'scheme': self.name,
                'void_id': self.void_id,
                'classes': [
                    {'id': c.id, 'name': c.name, 'color': list(c.color)} for c in self.classes
                ],
            }
        )


def _counterpart(c: LabelClass, source: LabelScheme, target: LabelScheme) -> int:
    by_label_id = [
        t.id for t in target.classes if c.label_ids and set(c.label_ids) <= set(t.label_ids)
    ]
    if by_label_id:
        return by_label_id[0]
    if c.void:
        return target.void_id
    by_name = [t.id for t in target.classes if t.name == c.name]
    by_category = [t.id for t in target.classes if t.category == c.category]
    match by_name or by_category:
        case [only]:
            return only
    raise SchemeError(
        f'class {c.name} of {source.name} has no unambiguous counterpart in {target.name} '
        f'({len(by_category)} classes of category {c.category}); '
        f'choose a scheme whose classes contain it'
    )


def available_schemes() -> list[str]:
    """Return the names of the schemes in `config/labels/`."""
    return sorted(path.stem for path in (config_dir() / 'labels').glob('*.yaml'))


def load_scheme(name: str | Path) -> LabelScheme:
    """Load a scheme by its name in `config/labels/`, or from a YAML file.

    Raises:
        SchemeError: no such scheme, or an invalid file.
    """
    path = Path(name)
    if path.suffix not in ('.yaml', '.yml'):
        if str(name) not in available_schemes():
            raise SchemeError(
                f'unknown label scheme {str(name)!r}; there are {", ".join(available_schemes())}, '
                f'or give the path of a .yaml file'
            )
        path = config_dir() / 'labels' / f'{name}.yaml'
    try:
        content = read_yaml(path)
    except ForeignError as error:
        raise SchemeError(
            f'label scheme {error}; give the path of a scheme file, or one of '
            f'{", ".join(available_schemes())}'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get('classes'), list):
        raise SchemeError(f'label scheme {path} needs a list "classes", one row per class')
    if len(content['classes']) > MAX_CLASSES:
        raise SchemeError(
            f'label scheme {path} has {len(content["classes"])} classes; an id is a byte, so '
            f'there can be {MAX_CLASSES}'
        )
    try:
        rows = tuple(LabelClass.from_row(row) for row in content['classes'])
    except SchemeError as error:
        raise SchemeError(f'label scheme {path}: {error}') from error
    ignored = content.get('ignored', [])
    if not _is_list_of(ignored, _is_byte):
        raise SchemeError(
            f'label scheme {path} has ignored {quoted(ignored)}; expected a list of integers in '
            f'0..255, the values of pixels that are not annotated'
        )
    return LabelScheme(path.stem, rows, str(content.get('description', '')), tuple(ignored))


def described_scheme(text: str, given: LabelScheme | None = None) -> LabelScheme:
    """Return the scheme that a description by `LabelScheme.to_json` names.

    `given` is an additional scheme, which need not be installed.

    Raises:
        SchemeError: the text is not a description, the scheme is unknown, or its classes differ
            from those of the scheme of that name.
    """
    try:
        content = parse_json(text, max_bytes=MAX_JSON_BYTES)
        name = content['scheme']
        # Looked up by name only: a description must not choose which files are read.
        known = [given] if given is not None else []
        known += [load_scheme(name)] if name in available_schemes() else []
        scheme = next((scheme for scheme in known if scheme.name == name), None)
        names = {row['id']: row['name'] for row in content['classes']}
    except (ForeignError, KeyError, TypeError) as error:
        reason = f'{type(error).__name__}: {one_line(error)}'
        raise SchemeError(
            f'it is not a description of a label scheme ({reason}); expected JSON with scheme and '
            f'classes, as the commands of this package write it'
        ) from error
    if scheme is None:
        raise SchemeError(
            f'it describes an unknown label scheme {quoted(name)}; there are '
            f'{", ".join(available_schemes())}, or give the path of a .yaml file as the label '
            f'scheme to score in'
        )
    if names != {c.id: c.name for c in scheme.classes}:
        raise SchemeError(
            f'it describes a {scheme.name} whose classes differ from the installed one; install '
            f'the label scheme that the labels were written with'
        )
    return scheme


def scheme_from_json(text: str) -> LabelScheme:
    """Return the scheme in a description by `LabelScheme.to_json`, which need not be installed.

    The description has no categories and labelIds: each class is its own category.

    Raises:
        SchemeError: the text is not a description of a scheme.
    """
    try:
        content = parse_json(text, max_bytes=MAX_JSON_BYTES)
        name, void_id, rows = content['scheme'], content['void_id'], content['classes']
        if not isinstance(name, str) or not _is_byte(void_id) or not isinstance(rows, list):
            raise TypeError('scheme is text, void_id an integer in 0..255, classes a list')
        described = [
            {**row, 'category': str(row['name']), 'void': row['id'] == void_id} for row in rows
        ]
    except (ForeignError, KeyError, TypeError) as error:
        raise SchemeError(
            f'it is not a description of a label scheme ({type(error).__name__}: '
            f'{one_line(error)}); expected JSON with scheme, void_id and classes, as '
            f'label_info_json has it'
        ) from error
    return LabelScheme(name, tuple(LabelClass.from_row(row) for row in described))


def scheme_of_class_names(names: Sequence[str]) -> tuple[LabelScheme, UInt8Array]:
    """Find the scheme whose learned classes have the class names of a network.

    A network that segments only instances has the countable classes of its scheme.

    Returns:
        The scheme, and the published id of each channel, (C,) uint8.

    Raises:
        SchemeError: no scheme has exactly these classes.
    """
    schemes = [load_scheme(name) for name in available_schemes()]
    for countable in (False, True):
        for scheme in schemes:
            channel_ids = scheme.ids_of_names(names, countable=countable)
            if channel_ids is not None:
                return scheme, channel_ids
    raise SchemeError(
        f'no label scheme has the classes {", ".join(names)}; add one to '
        f'{config_dir() / "labels"} (a file per scheme, a row per class)'
    )


def _plain(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', ' ', name.lower()).strip()
