# SPDX-License-Identifier: Apache-2.0
"""Arguments of the launch files; every parameter of the node is one.

An argument that is left empty is not passed on: the parameter file applies, or else the default
of the node.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from segmentation_node.errors import ForeignError, SettingError, quoted
from segmentation_node.ros.parameters import Parameters
from segmentation_node.topics import NODE_NAME
from segmentation_node.untrusted import parse_yaml

#: Names that launch itself reads, whatever the launch file.
OF_LAUNCH: Final = frozenset(
    {'emulate_tty', 'launch-prefix', 'launch-prefix-filter', 'sigkill_timeout', 'sigterm_timeout'}
)
LOG_LEVELS: Final = ('debug', 'info', 'warn', 'error', 'fatal')


@dataclass(frozen=True)
class Argument:
    """An argument of a launch file; `choices` of None admits every text."""

    name: str
    description: str
    default: str = ''
    choices: tuple[str, ...] | None = None


def _switch(name: str, description: str) -> Argument:
    return Argument(name, f'{description}: true or false', default='false')


def _of_parameter(field: Any) -> Argument:
    choices, limits = field.metadata['choices'], field.metadata['range']
    between = f' ({limits[0]:g} to {limits[1]:g})' if limits else ''
    return Argument(
        field.name,
        field.metadata['description'] + between,
        choices=('', *choices) if choices else None,
    )


NODE_PARAMETERS: Final = tuple(_of_parameter(field) for field in fields(Parameters))

#: Of seg.launch.py.
SEG: Final = (
    *NODE_PARAMETERS,
    Argument('image_topic', 'Topic of the images, without the suffix of a transport'),
    Argument(
        'camera_info_topic', 'Topic of the calibration; empty: camera_info beside image_topic'
    ),
    Argument('params_file', "Parameter file: a path, or a file in the package's config/"),
    Argument('namespace', 'Namespace of the node and of topics without a leading /'),
    Argument('node_name', 'Name of the node', default=NODE_NAME),
    Argument('use_sim_time', 'Follow /clock, true or false; empty: true where a bag is played'),
    _switch('rviz', 'Show the camera, the overlay and the color mask in RViz'),
    Argument(
        'rviz_config',
        "Layout of RViz: a path, or a file in the package's config/",
        default='segmentation.rviz',
    ),
    Argument('bag', 'Bag to play once the node is active; all ends with it, or with RViz if open'),
    Argument('bag_arguments', 'More arguments of "ros2 bag play", such as "--rate 0.5 --loop"'),
    _switch('respawn', 'Start the node again when it ends although nobody asked it to'),
    _switch('large_frames', 'Give Fast DDS the shared memory that large frames need'),
    Argument('enclave', 'Enclave of the node in a keystore of SROS 2, such as /segmentation_node'),
    Argument('log_level', 'Log level of the node', choices=('', *LOG_LEVELS)),
)

_OF_COMPARE: Final = {
    argument.name: argument
    for argument in (
        Argument('rviz', 'Show the camera, both overlays and both color masks in RViz: '
                 'true or false', default='true'),
        Argument('rviz_config', "Layout of RViz: a path, or a file in the package's config/",
                 default='compare.rviz'),
    )
}  # fmt: skip

#: Of compare.launch.py, whose nodes are called left and right.
COMPARE: Final = (
    Argument(
        'other_model',
        'Model on the right; the argument model is on the left',
        default='mask2former',
    ),
    *(
        _OF_COMPARE.get(argument.name, argument)
        for argument in SEG
        if argument.name != 'node_name'
    ),
)


def parameter_values(given: Mapping[str, str]) -> dict[str, Any]:
    """Values of those arguments that are parameters of the node, with the parameters' types.

    Raises:
        SettingError: an argument has another type.
    """
    types = get_type_hints(Parameters)
    return {name: _PARSERS[types[name]](name, given[name]) for name in types if given.get(name)}


def check_names(words: Iterable[str], arguments: Iterable[Argument]) -> None:
    """Refuse names that are no arguments, which launch passes over in silence.

    Args:
        words: NAME:=VALUE of a command line.
        arguments: those of the launch file.

    Raises:
        SettingError: a name is unknown.
    """
    known = {argument.name for argument in arguments} | OF_LAUNCH
    for name in (word.partition(':=')[0] for word in words):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f'did you mean {near[0]}?' if near else '--show-args lists them'
            raise SettingError(f'{quoted(name)} is no argument of this launch file; {hint}')


def as_bool(name: str, text: str) -> bool:
    """Value of an argument in the spellings that launch's own conditions accept.

    Raises:
        SettingError: it is neither true nor false.
    """
    try:
        return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    except KeyError:
        raise _unfit(name, text, 'true or false') from None


def _int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _unfit(name, text, 'an integer') from None


def _float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not isfinite(value):
        raise _unfit(name, text, 'a number')
    return value


def _list(kind: type, example: str) -> Callable[[str, str], list[Any]]:
    def parse(name: str, text: str) -> list[Any]:
        try:
            value = parse_yaml(text)
        except ForeignError:
            value = None
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise _unfit(name, text, f'a list such as "{example}"')
        return value

    return parse


def _unfit(name: str, text: str, expected: str) -> SettingError:
    return SettingError(f'{name} is {quoted(text)}; expected {expected}')


_PARSERS: Final[Mapping[Any, Callable[[str, str], Any]]] = MappingProxyType(
    {
        str: lambda _, text: text,
        bool: as_bool,
        int: _int,
        float: _float,
        list[int]: _list(int, '[512, 1024]'),
        list[str]: _list(str, "['front', 'rear']"),
    }
)
