# SPDX-License-Identifier: Apache-2.0
"""Generated Markdown: tables, and their places in a page."""

import re
from collections.abc import Sequence

from segmentation_node.errors import SettingError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; pipes in cells are escaped."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(
        '| ' + ' | '.join(c.replace('|', '\\|') for c in line) + ' |' for line in lines
    )


def with_content(text: str, name: str, content: str) -> str:
    """Replace the content between a pair of markers; raises SettingError if they are missing."""
    begin, end = f'(<!-- {name}: [^\n]*-->\n)', f'(<!-- end of {name} -->)'

    def exchanged(place: re.Match[str]) -> str:
        # A function instead of a template, which would interpret backslashes in the content.
        return f'{place[1]}{content}\n{place[2]}'

    text, found = re.subn(f'{begin}.*?{end}', exchanged, text, flags=re.DOTALL)
    if found != 1:
        raise SettingError(
            f'the text has {found} places for the table of {name}, expected one between '
            f'"<!-- {name}: ... -->" and "<!-- end of {name} -->"'
        )
    return text
