# SPDX-License-Identifier: Apache-2.0
"""The words of the page, which stand in config/texts, a file for each language."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import yaml

from segmentation_node.paths import config_dir

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType({'en': 'English', 'fr': 'Français'})

NARROW_SPACE: Final = '\N{NARROW NO-BREAK SPACE}'
#: What French writes for the marks between digits.
FRENCH: Final = str.maketrans({',': NARROW_SPACE, '.': ','})


@cache
def texts(language: str) -> Mapping[str, str]:
    """All texts of one of LANGUAGES by key."""
    path = config_dir() / 'texts' / f'{language}.yaml'
    found: dict[str, str] = yaml.safe_load(path.read_text(encoding='utf-8'))
    return MappingProxyType(found)


class Words:
    """The texts of one language, and how it writes numbers."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = texts(language)

    def __call__(self, key: str, **values: Any) -> str:
        """A text, with values filled in."""
        return self._texts[key].format(**values)

    def raw(self, key: str) -> str:
        """A text as it stands, to be filled in elsewhere."""
        return self._texts[key]

    def problem(self, kind: str, detail: str) -> str:
        """A problem of the service in plain words."""
        key = f'problem_{kind}'
        return self(key) if key in self._texts else self('problem_other', detail=detail)

    def class_name(self, name: str) -> str:
        """A class's name; those of other data sets are left as they are."""
        return self._texts.get(f'class_{name}', name)

    def model(self, name: str) -> str:
        """A model's name as people write it."""
        return self._texts.get(f'model_{name}', name)

    def number(self, value: float, digits: int = 1) -> str:
        """A number as it is written: with decimals, and groups of three digits."""
        return self._localized(f'{value:,.{digits}f}')

    def short_number(self, value: float) -> str:
        """A number at a tick of a chart, with no more digits than it needs."""
        return self._localized(f'{value:,.10g}')

    def percent(self, share: float) -> str:
        """A share from 0 to 1 in per cent."""
        space = NARROW_SPACE if self.language == 'fr' else ''
        return f'{self.number(100 * share)}{space}%'

    def _localized(self, text: str) -> str:
        return text.translate(FRENCH) if self.language == 'fr' else text
