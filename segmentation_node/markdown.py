# SPDX-License-Identifier: Apache-2.0
"""Markdown that is written by the code: tables, and places in a page for them."""

import re
from collections.abc import Sequence

from segmentation_node.errors import SettingError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    # A pipe would end its cell.
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(
        '| ' + ' | '.join(c.replace('|', '\\|') for c in line) + ' |' for line in lines
    )


def with_content(text: str, name: str, content: str) -> str:
    """A text with what stands between one pair of marks exchanged; raises SettingError."""
    begin, end = f'(<!-- {name}: [^\n]*-->\n)', f'(<!-- end of {name} -->)'

    def exchanged(place: re.Match[str]) -> str:
        # Not as a template, in which digits and backslashes of the content would mean something.
        return f'{place[1]}{content}\n{place[2]}'

    text, found = re.subn(f'{begin}.*?{end}', exchanged, text, flags=re.DOTALL)
    if found != 1:
        raise SettingError(
            f'the text has {found} places for the table of {name}, expected one between '
            f'"<!-- {name}: ... -->" and "<!-- end of {name} -->"'
        )
    return text
