# SPDX-License-Identifier: Apache-2.0
"""Settings made of the arguments of a launch file, checked before anything is started."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from segmentation_node.errors import SettingError, quoted
from segmentation_node.paths import config_dir
from segmentation_node.ros.launching.arguments import as_bool, parameter_values
from segmentation_node.ros.parameter_files import PARAMETERS, matches, sections_of
from segmentation_node.ros.parameters import Parameters
from segmentation_node.topics import CAMERA_INFO, COMPRESSED_SUFFIX, IMAGE
from segmentation_node.untrusted import read_yaml

#: Rate of /clock while a bag is played: no latency can be measured finer than its ticks.
CLOCK_HZ: Final = 200


@dataclass(frozen=True)
class NodeSettings:
    """One node of a launch file."""

    #: Name with its namespace, as diagnostics have it.
    full_name: str
    #: Values of parameters that were given as arguments; they override the parameter file.
    values: Mapping[str, Any]
    #: Values of all parameters, as far as arguments and parameter file tell.
    parameters: Parameters
    #: Sections of the parameter file that are for this node.
    sections: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name without its namespace."""
        return self.full_name.rpartition('/')[2]

    @property
    def namespace(self) -> str:
        """Absolute namespace."""
        return self.full_name.rpartition('/')[0] or '/'

    def parameter_file(self, **more: object) -> str:
        """Content of a parameter file with the values of the arguments, and more.

        ROS gives precedence to the section that comes last, over all files, and a section stays
        where it came first. Hence the values stand in every section that the node has.
        """
        values = {PARAMETERS: {**self.values, **more}}
        # As JSON, which is YAML in which no text can be taken for a number.
        sections = dict.fromkeys(('/**', self.full_name, *self.sections), values)
        return json.dumps(sections, ensure_ascii=False)


@dataclass(frozen=True)
class Settings:
    """All that a launch file starts."""

    nodes: tuple[NodeSettings, ...]
    params_file: Path | None
    remappings: tuple[tuple[str, str], ...]
    #: Topic of the images where it is given.
    image_topic: str
    #: None leaves it to the parameter file.
    use_sim_time: bool | None
    rviz_config: Path | None
    #: Arguments of `ros2 bag play`, none without a bag.
    play: tuple[str, ...]
    respawn: bool
    large_frames: bool
    log_level: str
    enclave: str

    @classmethod
    def of(cls, given: Mapping[str, str], models: Mapping[str, str], namespace: str) -> 'Settings':
        """Return the settings of arguments by name.

        Args:
            given: the arguments.
            models: value of the parameter model for each node, empty to leave it out.
            namespace: of the nodes, absolute.

        Raises:
            SettingError: an argument has a value that cannot be used, or contradicts another.
            ForeignError: the parameter file cannot be read.
        """
        given = {name: value for name, value in given.items() if value}
        params_file = _file(given['params_file']) if 'params_file' in given else None
        nodes = tuple(
            _node(name, namespace, {**given, 'model': model}, params_file)
            for name, model in models.items()
        )
        follow = given.get('use_sim_time', 'true' if 'bag' in given else '')
        use_sim_time = as_bool('use_sim_time', follow) if follow else None
        respawn = as_bool('respawn', given['respawn'])
        if respawn and 'bag' in given:
            raise SettingError(
                'bag and respawn exclude each other: all ends with the bag; leave one out'
            )
        show = as_bool('rviz', given['rviz'])
        return cls(
            nodes=nodes,
            params_file=params_file,
            remappings=tuple(_remappings(given, nodes)),
            image_topic=given.get('image_topic', ''),
            use_sim_time=use_sim_time,
            rviz_config=_file(given['rviz_config']) if show else None,
            play=tuple(_play_arguments(given, clock=bool(use_sim_time))),
            respawn=respawn,
            large_frames=as_bool('large_frames', given['large_frames']),
            log_level=given.get('log_level', ''),
            enclave=given.get('enclave', ''),
        )


def _node(
    name: str, namespace: str, given: Mapping[str, str], params_file: Path | None
) -> NodeSettings:
    defaults = asdict(Parameters())
    values = parameter_values(given)
    full_name = f'{namespace.rstrip("/")}/{name}'
    sections = [
        (pattern, content)
        for pattern, content in sections_of(read_yaml(params_file) if params_file else {})
        if isinstance(content, dict) and matches(pattern, full_name)
    ]
    of_file = {
        key: value
        for _, content in sections
        for key, value in content.items()
        # The node itself refuses values of other types, and other names.
        if key in defaults and type(value) is type(defaults[key])
    }
    parameters = Parameters(**{**of_file, **values})
    return NodeSettings(full_name, values, parameters, tuple(dict(sections)))


def _remappings(
    given: Mapping[str, str], nodes: tuple[NodeSettings, ...]
) -> Iterator[tuple[str, str]]:
    topic = given.get('image_topic', '')
    named = [name for name in ('image_topic', 'camera_info_topic') if name in given]
    cameras = nodes[0].parameters.cameras
    if named and any(cameras):
        raise SettingError(
            f'{" and ".join(named)} cannot be used with cameras, which is {cameras}: the images '
            f'are expected on {cameras[-1]}/{IMAGE} and so on; leave {named[0]} out, and remap '
            f'each of these topics in a launch file of your own (SetRemap), or leave out cameras'
        )
    if topic.endswith(COMPRESSED_SUFFIX):
        raise SettingError(
            f'image_topic {quoted(topic)} names a transport; leave out {COMPRESSED_SUFFIX} and '
            f'say image_transport:=compressed'
        )
    if topic:
        # Whether the suffix follows the name before or after it is remapped, one rule fits.
        yield IMAGE, topic
        yield IMAGE + COMPRESSED_SUFFIX, topic + COMPRESSED_SUFFIX
    beside = ''.join(topic.rpartition('/')[:2]) + CAMERA_INFO if topic else ''
    if info := given.get('camera_info_topic', beside):
        yield CAMERA_INFO, info


def _play_arguments(given: Mapping[str, str], *, clock: bool) -> Iterator[str]:
    if 'bag' not in given:
        if 'bag_arguments' in given:
            raise SettingError('bag_arguments needs a bag; give bag:=, or leave it out')
        return
    if not Path(given['bag']).exists():
        raise SettingError(f'no bag {quoted(given["bag"])}; give the folder or file of a bag')
    yield given['bag']
    if clock:
        yield from ('--clock', str(CLOCK_HZ))
    yield '--disable-keyboard-controls'
    try:
        yield from shlex.split(given.get('bag_arguments', ''))
    except ValueError as error:
        raise SettingError(
            f'bag_arguments is {quoted(given["bag_arguments"])}, which is not a list of '
            f'arguments ({error}); close the quotes'
        ) from None


def _file(name: str) -> Path:
    """File of a path, or of a name in the package's config/."""
    for path in (Path(name), config_dir() / name):
        if path.is_file():
            return path
    like = sorted(path.name for path in config_dir().glob(f'*{Path(name).suffix}'))
    raise SettingError(f'no file {quoted(name)}; give a path, or one of {", ".join(like)}')
