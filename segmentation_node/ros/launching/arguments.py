# SPDX-License-Identifier: Apache-2.0
"""Arguments of the launch files, which include every parameter of the node.

An empty argument is not passed on: the parameter file or the default of the node applies.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from segmentation_node.errors import ForeignError, SettingError, quoted, suggestion
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.parameters import Parameters, ParameterSet
from segmentation_node.topics import NODE_NAME
from segmentation_node.untrusted import parse_yaml

#: Arguments that launch itself reads with any launch file.
BUILT_IN: Final = frozenset(
    {'emulate_tty', 'launch-prefix', 'launch-prefix-filter', 'sigkill_timeout', 'sigterm_timeout'}
)
LOG_LEVELS: Final = ('debug', 'info', 'warn', 'error', 'fatal')


@dataclass(frozen=True)
class Argument:
    """Argument of a launch file; with `choices` None, any text is valid."""

    name: str
    description: str
    default: str = ''
    choices: tuple[str, ...] | None = None


def _switch(name: str, description: str) -> Argument:
    return Argument(name, f'{description}: true or false', default='false')


def _argument_for(field: Any, prefix: str = '') -> Argument:
    choices, limits = field.metadata['choices'], field.metadata['range']
    range_ = f' ({limits[0]:g} to {limits[1]:g})' if limits else ''
    return Argument(
        prefix + field.name,
        field.metadata['description'] + range_,
        choices=('', *choices) if choices else None,
    )


NODE_PARAMETERS: Final = tuple(_argument_for(field) for field in fields(Parameters))

#: Arguments of seg.launch.py.
SEG: Final = (
    *NODE_PARAMETERS,
    Argument('image_topic', 'Topic of the images, without the suffix of the transport'),
    Argument(
        'camera_info_topic', 'Topic of the calibration; if empty, camera_info next to image_topic'
    ),
    Argument('params_file', "Parameter file: a path, or a file in the package's config/"),
    Argument('namespace', 'Namespace of the node and of topics without a leading /'),
    Argument('node_name', 'Name of the node', default=NODE_NAME),
    Argument('use_sim_time', 'Use the time of /clock, true or false; if empty, true with a bag'),
    _switch('rviz', 'Show the camera, the overlay and the color mask in RViz'),
    Argument(
        'rviz_config',
        "RViz configuration: a path, or a file in the package's config/",
        default='segmentation.rviz',
    ),
    Argument(
        'bag',
        'Bag to play once the node is active; launch ends with the bag, or with RViz if open',
    ),
    Argument('bag_arguments', 'Arguments to add to "ros2 bag play", such as "--rate 0.5 --loop"'),
    _switch('respawn', 'Restart the node when it ends unexpectedly'),
    _switch('large_frames', 'Configure Fast DDS with enough shared memory for large frames'),
    Argument('enclave', 'SROS 2 enclave of the node, such as /segmentation_node'),
    Argument('log_level', 'Log level of the node', choices=('', *LOG_LEVELS)),
)

#: Prefix of the arguments that are parameters of the node label_cloud.
CLOUD_PREFIX: Final = 'cloud_'
#: Arguments of label_cloud.launch.py.
LABEL_CLOUD: Final = (
    *(_argument_for(field, CLOUD_PREFIX) for field in fields(CloudParameters)),
    Argument('depth_topic', 'Topic of the depth image, registered to the camera image'),
    Argument('points_topic', 'Topic of the organized cloud, if cloud_source is cloud'),
    *(argument for argument in SEG if argument.name != 'cameras'),
)

_COMPARE_DEFAULTS: Final = {
    argument.name: argument
    for argument in (
        Argument('rviz', 'Show the camera, both overlays and both color masks in RViz: '
                 'true or false', default='true'),
        Argument('rviz_config', "RViz configuration: a path, or a file in the package's config/",
                 default='compare.rviz'),
    )
}  # fmt: skip

#: Arguments of compare.launch.py, whose nodes are named left and right.
COMPARE: Final = (
    Argument(
        'other_model',
        'Model of the node right; the argument model selects that of the node left',
        default='mask2former',
    ),
    *(
        _COMPARE_DEFAULTS.get(argument.name, argument)
        for argument in SEG
        if argument.name != 'node_name'
    ),
)


def parameter_values(
    given: Mapping[str, str], kind: type[ParameterSet] = Parameters, prefix: str = ''
) -> dict[str, Any]:
    """Return the values of the arguments that are parameters of a node, with their types.

    Args:
        given: values of the arguments by name.
        kind: parameters of the node.
        prefix: beginning of the names of their arguments.

    Raises:
        SettingError: an argument has the wrong type.
    """
    types = get_type_hints(kind)
    return {
        field.name: _PARSERS[types[field.name]](prefix + field.name, text)
        for field in fields(kind)
        if (text := given.get(prefix + field.name))
    }


def check_names(words: Iterable[str], arguments: Iterable[Argument]) -> None:
    """Reject unknown names, which launch silently ignores.

    Args:
        words: words of a command line, NAME:=VALUE.
        arguments: arguments of the launch file.

    Raises:
        SettingError: a name is unknown.
    """
    known = {argument.name for argument in arguments} | BUILT_IN
    for name in (word.partition(':=')[0] for word in words):
        if name not in known:
            hint = suggestion(name, known) or '--show-args lists the arguments'
            raise SettingError(f'{quoted(name)} is not an argument of this launch file; {hint}')


def as_bool(name: str, text: str) -> bool:
    """Return the value of a switch, in the spellings that the conditions of launch accept.

    Raises:
        SettingError: the text is neither true nor false.
    """
    try:
        return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    except KeyError:
        raise _invalid(name, text, 'true or false') from None


def _int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _invalid(name, text, 'an integer') from None


def _float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not isfinite(value):
        raise _invalid(name, text, 'a number')
    return value


def _list(kind: type, example: str) -> Callable[[str, str], list[Any]]:
    def parse(name: str, text: str) -> list[Any]:
        try:
            value = parse_yaml(text)
        except ForeignError:
            value = None
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise _invalid(name, text, f'a list such as "{example}"')
        return value

    return parse


def _invalid(name: str, text: str, expected: str) -> SettingError:
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
