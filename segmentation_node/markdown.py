# SPDX-License-Identifier: Apache-2.0
"""Generated Markdown: tables, and marked places in a page for them."""

import re
from collections.abc import Sequence

from segmentation_node.errors import SettingError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a head and rows of texts."""
    # An unescaped pipe would end the cell.
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(
        '| ' + ' | '.join(c.replace('|', '\\|') for c in line) + ' |' for line in lines
    )


def with_content(text: str, name: str, content: str) -> str:
    """Return a text with the content between two marks replaced; raises SettingError."""
    begin, end = f'(<!-- {name}: [^\n]*-->\n)', f'(<!-- end of {name} -->)'

    def replacement(place: re.Match[str]) -> str:
        # A function, because backslashes in a template would be interpreted.
        return f'{place[1]}{content}\n{place[2]}'

    text, count = re.subn(f'{begin}.*?{end}', replacement, text, flags=re.DOTALL)
    if count != 1:
        raise SettingError(
            f'the text has {count} places for the table of {name}, expected one between '
            f'"<!-- {name}: ... -->" and "<!-- end of {name} -->"'
        )
    return text
