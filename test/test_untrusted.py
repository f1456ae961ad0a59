# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON of others: plain values come back, all else is refused within bounds."""

import json
import resource
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hostile_checkpoints import BOMB
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.errors import ForeignError, SegmentationError, one_line, printable, quoted
from segmentation_node.labels import load_scheme
from segmentation_node.untrusted import MAX_DEPTH, parse_json, parse_yaml, read_json, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_plain_values_come_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    # Of one object that is there twice PyYAML makes an alias.
    assert parse_yaml(yaml.safe_dump(json.loads(json.dumps(value)))) == value


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_whatever_it_is_it_is_read_or_refused(content: bytes | str) -> None:
    for parse in (parse_yaml, parse_json):
        with suppress(ForeignError):
            parse(content)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (BOMB, "alias, 'a0'"),
        ('[' * 50_000 + ']' * 50_000, 'nesting depth'),
        ('{a: ' * 200, 'deeper than'),
        ('- ' * 2**16 + 'x', 'deeper than'),
        ('x' * (2**18 + 1), 'longer than 262144 bytes'),
        (b'\xff\xfe', 'not UTF-8'),
        ('9' * 5000, 'not valid YAML'),
        ('!!python/object/apply:os.system [true]', 'not valid YAML'),
        ('2001-99-99', 'not valid YAML'),
        ('{[1]: 2}', 'not valid YAML'),
        ('a: [', 'not valid YAML'),
    ],
)
def test_hostile_yaml(content: str | bytes, said: str) -> None:
    with pytest.raises(ForeignError, match=said):
        parse_yaml(content)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('[' * 99_999 + ']' * 99_999, 'deeper than'),
        ('{"a":' * 40_000 + '1' + '}' * 40_000, 'deeper than'),
        ('[' * (MAX_DEPTH + 1) + ']' * (MAX_DEPTH + 1), 'deeper than'),
        ('9' * 5000, 'not valid JSON'),
        ('[NaN]', 'NaN is not valid in JSON'),
        ('-Infinity', 'not valid in JSON'),
        ('', 'not valid JSON'),
    ],
)
def test_hostile_json(content: str, said: str) -> None:
    with pytest.raises(ForeignError, match=said):
        parse_json(content)


def test_depth_at_the_limit_is_read() -> None:
    content = '[' * MAX_DEPTH + ']' * MAX_DEPTH
    assert parse_json(content) == parse_yaml(content)


def test_a_file_is_named_and_no_more_of_it_read_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / 'endless'
    path.symlink_to('/dev/zero')
    for read in (read_yaml, read_json):
        with pytest.raises(ForeignError, match=r'endless cannot be read: it is longer than 100 '):
            read(path, max_bytes=100)
        with pytest.raises(ForeignError, match=r'missing cannot be read: .*No such file'):
            read(tmp_path / 'missing')


def test_a_scheme_of_many_rows_is_refused_at_once(tmp_path: Path) -> None:
    scheme = tmp_path / 'long.yaml'
    scheme.write_text('classes:\n' + '- {}\n' * 50_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegmentationError, match='50000 classes'):
        load_scheme(scheme)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_messages_have_an_end_and_no_control_characters() -> None:
    error = SegmentationError('\x1b[31mred\x07\u202e ' + 'x' * 10_000 + '; give another')
    text = str(error)
    assert len(text) < 2000
    assert text.endswith('give another')
    assert '\x1b' not in text
    assert '\u202e' not in text
    assert len(one_line(ValueError('a\nb\x1b' * 10_000))) <= 300
    assert '\n' not in one_line(ValueError('a\nb'))
    assert printable('tabs\tand\nlines') == 'tabs\tand\nlines'


@given(VALUES | st.binary(max_size=10**4) | st.text(max_size=10**4))
def test_quotes_are_short(value: object) -> None:
    assert len(quoted(value)) < 1000
    assert quoted(value).isprintable()
