# SPDX-License-Identifier: Apache-2.0
"""Texts of the page, read from one file per language in config/texts."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import yaml

from segmentation_node.paths import config_dir

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType({'en': 'English', 'fr': 'Français'})

NARROW_SPACE: Final = '\N{NARROW NO-BREAK SPACE}'
#: French separators in numbers.
FRENCH: Final = str.maketrans({',': NARROW_SPACE, '.': ','})


@cache
def texts(language: str) -> Mapping[str, str]:
    """Return all texts of one of LANGUAGES by key."""
    path = config_dir() / 'texts' / f'{language}.yaml'
    loaded: dict[str, str] = yaml.safe_load(path.read_text(encoding='utf-8'))
    return MappingProxyType(loaded)


class Words:
    """Texts and number formats of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = texts(language)

    def __call__(self, key: str, **values: Any) -> str:
        """Return a text with its values filled in."""
        return self._texts[key].format(**values)

    def raw(self, key: str) -> str:
        """Return a text with its placeholders."""
        return self._texts[key]

    def problem(self, kind: str, detail: str) -> str:
        """Return the text for a problem of the service."""
        key = f'problem_{kind}'
        return self(key) if key in self._texts else self('problem_other', detail=detail)

    def class_name(self, name: str) -> str:
        """Return the translated name of a class; names without a translation stay the same."""
        return self._texts.get(f'class_{name}', name)

    def model(self, name: str) -> str:
        """Return the display name of a model."""
        return self._texts.get(f'model_{name}', name)

    def number(self, value: float, digits: int = 1) -> str:
        """Return a number with `digits` decimals and separators of thousands."""
        return self._localized(f'{value:,.{digits}f}')

    def short_number(self, value: float) -> str:
        """Return a number without trailing zeros, for the ticks of a chart."""
        return self._localized(f'{value:,.10g}')

    def percent(self, share: float) -> str:
        """Return a share from 0 to 1 in percent."""
        space = NARROW_SPACE if self.language == 'fr' else ''
        return f'{self.number(100 * share)}{space}%'

    def _localized(self, text: str) -> str:
        return text.translate(FRENCH) if self.language == 'fr' else text
