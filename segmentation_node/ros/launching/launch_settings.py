# SPDX-License-Identifier: Apache-2.0
"""Settings derived from launch arguments, checked before any process starts."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic

from segmentation_node.errors import SettingError, quoted
from segmentation_node.paths import PACKAGE, config_dir
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.launching.arguments import CLOUD_PREFIX, as_bool, parameter_values
from segmentation_node.ros.parameter_files import PARAMETERS, matches, sections_of
from segmentation_node.ros.parameters import Parameters, ParametersT
from segmentation_node.topics import (
    CAMERA_INFO,
    CLOUD,
    CLOUD_NODE_NAME,
    COMPRESSED_SUFFIX,
    CONFIDENCE,
    DEPTH,
    IMAGE,
    INSTANCE_MASK,
    LABEL_INFO_JSON,
    LABEL_MASK,
    NODE_NAME,
)
from segmentation_node.untrusted import read_yaml

#: Rate of /clock while a bag is played; it limits the resolution of measured latencies.
CLOCK_HZ: Final = 200


@dataclass(frozen=True)
class NodeSettings(Generic[ParametersT]):
    """Settings of one node of a launch file."""

    #: Name with namespace, as in the diagnostics.
    full_name: str
    #: Parameters given as arguments; they override the parameter file.
    values: Mapping[str, Any]
    #: Values of all parameters from arguments, parameter file and defaults.
    parameters: ParametersT
    #: Sections of the parameter file that apply to this node.
    sections: tuple[str, ...] = ()
    executable: str = PACKAGE

    @property
    def name(self) -> str:
        """Name without its namespace."""
        return self.full_name.rpartition('/')[2]

    @property
    def namespace(self) -> str:
        """Absolute namespace."""
        return self.full_name.rpartition('/')[0] or '/'

    def parameter_file(self, **more: object) -> str:
        """Return the content of a parameter file with the values of the arguments, and more.

        The last section takes precedence in ROS, but over all files a section keeps the place
        where it appeared first. Hence the values are in every section of the node.
        """
        values = {PARAMETERS: {**self.values, **more}}
        # JSON is valid YAML, and no text in it can be parsed as a number.
        sections = dict.fromkeys(('/**', self.full_name, *self.sections), values)
        return json.dumps(sections, ensure_ascii=False)


@dataclass(frozen=True)
class LaunchSettings:
    """Settings of everything that a launch file starts."""

    #: Segmentation nodes.
    nodes: tuple[NodeSettings[Parameters], ...]
    #: Node label_cloud; None if it does not run.
    cloud: NodeSettings[CloudParameters] | None
    params_file: Path | None
    remappings: tuple[tuple[str, str], ...]
    #: Topic of the images; empty for the default.
    image_topic: str
    #: None if the parameter file decides.
    use_sim_time: bool | None
    rviz_config: Path | None
    #: Arguments of `ros2 bag play`; empty without a bag.
    play: tuple[str, ...]
    respawn: bool
    large_frames: bool
    log_level: str
    enclave: str

    @property
    def all_nodes(self) -> tuple[NodeSettings[Any], ...]:
        """All nodes, in the order of their start."""
        return self.nodes if self.cloud is None else (*self.nodes, self.cloud)

    @classmethod
    def from_arguments(
        cls,
        given: Mapping[str, str],
        models: Mapping[str, str],
        namespace: str,
        *,
        cloud: bool = False,
    ) -> 'LaunchSettings':
        """Return the settings that result from launch arguments.

        Args:
            given: values of the arguments by name.
            models: parameter `model` of each node by its name; empty for the default.
            namespace: absolute namespace of the nodes.
            cloud: also run the node label_cloud, on the masks of the first node.

        Raises:
            SettingError: an argument is invalid or contradicts another one.
            ForeignError: the parameter file cannot be read.
        """
        given = {name: value for name, value in given.items() if value}
        params_file = _file(given['params_file']) if 'params_file' in given else None
        nodes = tuple(
            _node(name, namespace, {**given, 'model': model}, params_file, Parameters)
            for name, model in models.items()
        )
        cloud_node = (
            _node(CLOUD_NODE_NAME, namespace, given, params_file, CloudParameters, CLOUD_PREFIX)
            if cloud
            else None
        )
        remappings = [*_remappings(given, nodes)]
        if cloud:
            remappings += _cloud_remappings(given, nodes[0])
        sim_time = given.get('use_sim_time', 'true' if 'bag' in given else '')
        use_sim_time = as_bool('use_sim_time', sim_time) if sim_time else None
        respawn = as_bool('respawn', given['respawn'])
        if respawn and 'bag' in given:
            raise SettingError(
                'bag and respawn exclude each other, because launch ends with the bag; omit one'
            )
        show_rviz = as_bool('rviz', given['rviz'])
        return cls(
            nodes=nodes,
            cloud=cloud_node,
            params_file=params_file,
            remappings=tuple(remappings),
            image_topic=given.get('image_topic', ''),
            use_sim_time=use_sim_time,
            rviz_config=_file(given['rviz_config']) if show_rviz else None,
            play=tuple(_play_arguments(given, clock=bool(use_sim_time))),
            respawn=respawn,
            large_frames=as_bool('large_frames', given['large_frames']),
            log_level=given.get('log_level', ''),
            enclave=given.get('enclave', ''),
        )


def _node(
    name: str,
    namespace: str,
    given: Mapping[str, str],
    params_file: Path | None,
    kind: type[ParametersT],
    prefix: str = '',
) -> NodeSettings[ParametersT]:
    defaults = kind.defaults()
    values = parameter_values(given, kind, prefix)
    full_name = f'{namespace.rstrip("/")}/{name}'
    sections = [
        (pattern, content)
        for pattern, content in sections_of(read_yaml(params_file) if params_file else {})
        if isinstance(content, dict) and matches(pattern, full_name)
    ]
    from_file = {
        key: value
        for _, content in sections
        for key, value in content.items()
        # The node itself reports other names and rejects other types.
        if key in defaults and type(value) is type(defaults[key])
    }
    parameters = kind(**{**from_file, **values})
    executable = PACKAGE if kind is Parameters else name
    return NodeSettings(full_name, values, parameters, tuple(dict(sections)), executable)


def _cloud_remappings(
    given: Mapping[str, str], masks: NodeSettings[Parameters]
) -> Iterator[tuple[str, str]]:
    """Yield the remappings of the inputs of label_cloud."""
    cameras = masks.parameters.cameras
    if any(cameras):
        raise SettingError(
            f'cameras is {cameras}, but label_cloud.launch.py runs one camera; omit cameras, '
            f'or start label_cloud for each camera in your own launch file'
        )
    for argument, topic in (('depth_topic', DEPTH), ('points_topic', CLOUD)):
        if argument in given:
            yield topic, given[argument]
    if masks.name != NODE_NAME:
        for output in (LABEL_MASK, CONFIDENCE, INSTANCE_MASK, LABEL_INFO_JSON):
            yield f'{NODE_NAME}/{output}', f'{masks.name}/{output}'


def _remappings(
    given: Mapping[str, str], nodes: tuple[NodeSettings[Parameters], ...]
) -> Iterator[tuple[str, str]]:
    topic = given.get('image_topic', '')
    named = [name for name in ('image_topic', 'camera_info_topic') if name in given]
    cameras = nodes[0].parameters.cameras
    if named and any(cameras):
        raise SettingError(
            f'{" and ".join(named)} cannot be used with cameras, which is {cameras}: the images '
            f'are expected on topics such as {cameras[-1]}/{IMAGE}; omit {named[0]} and remap '
            f'these topics in your own launch file (SetRemap), or omit cameras'
        )
    if topic.endswith(COMPRESSED_SUFFIX):
        raise SettingError(
            f'image_topic {quoted(topic)} includes a transport; remove {COMPRESSED_SUFFIX} and '
            f'add image_transport:=compressed'
        )
    if topic:
        # Covers both orders: the suffix is appended before or after remapping.
        yield IMAGE, topic
        yield IMAGE + COMPRESSED_SUFFIX, topic + COMPRESSED_SUFFIX
    default_info = ''.join(topic.rpartition('/')[:2]) + CAMERA_INFO if topic else ''
    if info := given.get('camera_info_topic', default_info):
        yield CAMERA_INFO, info


def _play_arguments(given: Mapping[str, str], *, clock: bool) -> Iterator[str]:
    if 'bag' not in given:
        if 'bag_arguments' in given:
            raise SettingError('bag_arguments requires a bag; add bag:=..., or omit bag_arguments')
        return
    if not Path(given['bag']).exists():
        raise SettingError(
            f'bag {quoted(given["bag"])} does not exist; give the folder or file of a bag'
        )
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
    """Return the file at a path, or with a name in the package's config/."""
    for path in (Path(name), config_dir() / name):
        if path.is_file():
            return path
    available = sorted(path.name for path in config_dir().glob(f'*{Path(name).suffix}'))
    raise SettingError(
        f'file {quoted(name)} does not exist; give a path, or one of {", ".join(available)}'
    )
