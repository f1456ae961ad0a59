# SPDX-License-Identifier: Apache-2.0
"""Parsers of untrusted YAML and JSON, with limits on size and nesting.

A thousand bytes of YAML can expand to gigabytes by aliases of aliases, and deep nesting overflows
the stack of a parser. Valid files of this package have neither, so both are rejected.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from segmentation_node.errors import ForeignError, one_line, quoted

#: Maximum size of a file; configurations and label schemes have a few thousand bytes.
MAX_BYTES: Final = 2**18
#: Maximum nesting of lists and maps.
MAX_DEPTH: Final = 32

#: The loader written in C, if PyYAML was built with it: it is ten times as fast.
_Loader: Final[Any] = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)

ContentT = TypeVar('ContentT')


def read_yaml(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the content of a YAML file; raises ForeignError with its path."""
    return _read(path, max_bytes, parse_yaml)


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the content of a JSON file; raises ForeignError with its path."""
    return _read(path, max_bytes, parse_json)


def parse_yaml(content: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the values, lists and dicts of a YAML document.

    Raises:
        ForeignError: it is not YAML, too long, nested too deeply, or has aliases.
    """
    text = _text(content, max_bytes)
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ForeignError(f'it is not valid YAML ({one_line(error)})') from error


def parse_json(content: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the values, lists and dicts of a JSON document.

    Raises:
        ForeignError: it is not JSON, too long, or nested too deeply; NaN and Infinity are not
            JSON.
    """
    text = _text(content, max_bytes)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ForeignError(f'it is not valid JSON ({one_line(error)})') from error
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    return value


def _read(path: Path, max_bytes: int, parse: Callable[..., ContentT]) -> ContentT:
    try:
        with path.open('rb') as stream:
            content = stream.read(max_bytes + 1)
        return parse(content, max_bytes=max_bytes)
    except OSError as error:
        raise ForeignError(f'{path} cannot be read: {one_line(error)}') from error
    except ForeignError as error:
        raise ForeignError(f'{path} cannot be read: {error}') from error


def _text(content: bytes | str, max_bytes: int) -> str:
    if len(content) > max_bytes:
        raise ForeignError(f'it is longer than {max_bytes} bytes, the maximum for such files')
    try:
        return content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as error:
        raise ForeignError(f'it is not UTF-8 text ({one_line(error)})') from error


def _check_events(text: str) -> None:
    """Reject aliases and deep nesting before they are expanded."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ForeignError(f'it has an alias, {quoted(event.anchor)}; write the value instead')
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _too_deep()


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ForeignError:
    return ForeignError(f'it is nested deeper than {MAX_DEPTH} levels, the maximum for such files')


def _refuse_constant(constant: str) -> None:
    raise ValueError(f'{constant} is not valid in JSON')
