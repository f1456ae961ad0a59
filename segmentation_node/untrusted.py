# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON that others wrote: read within bounds, whatever it says.

A thousand bytes of YAML can stand for gigabytes, by aliases of aliases, and deep nesting overflows
the stack of a parser. Neither occurs in files that mean well, so both are refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from segmentation_node.errors import ForeignError, one_line, quoted

#: Of a file, in bytes; configurations and label schemes have thousands.
MAX_BYTES: Final = 2**18
#: Lists and maps inside each other.
MAX_DEPTH: Final = 32

#: The one in C where PyYAML was built with it, which takes a tenth of the time.
_Loader: Final[Any] = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)

Read = TypeVar('Read')


def read_yaml(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Content of a YAML file; raises ForeignError naming the file."""
    return _read(path, max_bytes, parse_yaml)


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Content of a JSON file; raises ForeignError naming the file."""
    return _read(path, max_bytes, parse_json)


def parse_yaml(content: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Plain values, lists and dicts of a YAML document.

    Raises:
        ForeignError: no YAML, too long, too deep, or with aliases.
    """
    text = _text(content, max_bytes)
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe one)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ForeignError(f'it is not valid YAML ({one_line(error)})') from error


def parse_json(content: bytes | str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Values, lists and dicts of a JSON document.

    Raises:
        ForeignError: no JSON, too long, or too deep; NaN and Infinity are no JSON.
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


def _read(path: Path, max_bytes: int, parse: Callable[..., Read]) -> Read:
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
        raise ForeignError(f'it is longer than {max_bytes} bytes, far more than such files have')
    try:
        return content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as error:
        raise ForeignError(f'it is not UTF-8 text ({one_line(error)})') from error


def _check_events(text: str) -> None:
    """Refuse aliases and deep nesting, before anything is built of them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ForeignError(f'it has an alias, {quoted(event.anchor)}; write the value out')
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
    return ForeignError(f'it is nested deeper than {MAX_DEPTH} levels, which no such file is')


def _refuse_constant(constant: str) -> None:
    raise ValueError(f'{constant} is no number of JSON')
