# SPDX-License-Identifier: Apache-2.0
"""Starts the segmentation node on a camera and, when asked, plays a bag and opens RViz.

An argument left empty is not passed on: there the parameter file holds, or else the default
that the node itself declares.
"""

import re
from dataclasses import fields
from pathlib import Path

import launch.logging
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events import Shutdown
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from segmentation_node.errors import SettingError
from segmentation_node.paths import PACKAGE, config_dir
from segmentation_node.ros.parameters import Parameters
from segmentation_node.topics import CAMERA_INFO, COMPRESSED_SUFFIX, IMAGE, NODE_NAME
from segmentation_node.transport import large_frames_environment

#: Parameters of the node that are arguments too; the node knows their meaning and choices.
NODE_PARAMETERS = ('model', 'runtime', 'device', 'image_transport')
#: Under simulated time no latency can be told finer than the clock ticks.
CLOCK_HZ = 200
#: Between the end of a node and its next start.
RESPAWN_S = 1.0
#: Between the end of a bag and the end of all, for the masks still to come.
GRACE_S = 2.0


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what they mean together is worked out once all are known."""
    return LaunchDescription([*_arguments(), OpaqueFunction(function=_start)])


def _arguments() -> list[Action]:
    return [
        *(
            _optional(parameter.name, parameter.metadata['description'], *choices)
            for parameter in fields(Parameters)
            if parameter.name in NODE_PARAMETERS
            for choices in [parameter.metadata['choices']]
        ),
        _optional('image_topic', 'Topic of the images, without the suffix of a transport'),
        _optional('camera_info_topic', 'Empty: camera_info beside image_topic'),
        _optional('params_file', "Parameter file: a path, or a file in the package's config/"),
        _optional('namespace', 'Name space of the node and of topics without a leading /'),
        DeclareLaunchArgument(
            'node_name', default_value=NODE_NAME, description='Name of the node'
        ),
        _optional('use_sim_time', 'Follow /clock; empty: if a bag is played', 'true', 'false'),
        _switch('rviz', 'Show the camera, the overlay and the colour mask in RViz'),
        DeclareLaunchArgument(
            'rviz_config',
            default_value='segmentation.rviz',
            description="Layout of RViz: a path, or a file in the package's config/",
        ),
        _optional(
            'bag', 'Bag to play once the node is active; all ends with it, or with RViz if open'
        ),
        _switch('respawn', 'Start the node again when it ends although nobody asked it to'),
        _switch('large_frames', 'Give Fast DDS the shared memory that large frames need'),
        _optional('log_level', 'Log level of the node', 'debug', 'info', 'warn', 'error', 'fatal'),
    ]


def _optional(name: str, description: str, *choices: str) -> Action:
    return DeclareLaunchArgument(
        name,
        default_value='',
        description=description,
        choices=['', *choices] if choices else None,
    )


def _switch(name: str, description: str) -> Action:
    return DeclareLaunchArgument(
        name, default_value='false', description=description, choices=['true', 'false']
    )


def _start(context: LaunchContext) -> list[Action]:
    given = {name: value for name, value in context.launch_configurations.items() if value}
    if 'bag' in given:
        if not Path(given['bag']).exists():
            raise SettingError(f'no bag {given["bag"]!r}; give the folder or file of a bag')
        if given['respawn'] == 'true':
            raise SettingError(
                'bag and respawn exclude each other: all ends with the bag; leave one out'
            )
        given.setdefault('use_sim_time', 'true')
    if given.get('image_topic', '').endswith(COMPRESSED_SUFFIX):
        raise SettingError(
            f'image_topic {given["image_topic"]!r} names a transport; leave out '
            f'{COMPRESSED_SUFFIX} and say image_transport:=compressed'
        )
    # A launch file that includes this one may have pushed a name space.
    given['namespace'] = make_namespace_absolute(
        prefix_namespace(given.get('ros_namespace'), given.get('namespace', ''))
    )
    node = _node(given)
    session = _session(given, node) if 'bag' in given else []
    rviz = [_rviz(given)] if given['rviz'] == 'true' else []
    return [*_transport(given), *session, node, *rviz]


def _node(given: dict[str, str]) -> LifecycleNode:
    values: dict[str, object] = {
        name: ParameterValue(given[name], value_type=str)
        for name in NODE_PARAMETERS
        if name in given
    }
    if 'use_sim_time' in given:
        values['use_sim_time'] = given['use_sim_time'] == 'true'
    parameters: list[object] = []
    if 'params_file' in given:
        parameters.append(ParameterFile(_file(given['params_file']), allow_substs=False))
    if values:
        parameters.append(values)
    log_level = []
    if 'log_level' in given:
        logger = f'{given["namespace"]}/{given["node_name"]}'.strip('/').replace('/', '.')
        log_level = ['--log-level', f'{logger}:={given["log_level"]}']
    return LifecycleNode(
        package=PACKAGE,
        executable=PACKAGE,
        name=given['node_name'],
        namespace=given['namespace'],
        parameters=parameters,
        remappings=_remappings(given),
        ros_arguments=log_level,
        output='screen',
        respawn=given['respawn'] == 'true',
        respawn_delay=RESPAWN_S,
        on_exit=_end('the node is gone') if 'bag' in given else None,
    )


def _remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    rules = []
    topic = given.get('image_topic')
    if topic:
        # Whether the suffix is put behind the name before or after it is remapped, one fits.
        rules += [(IMAGE, topic), (IMAGE + COMPRESSED_SUFFIX, topic + COMPRESSED_SUFFIX)]
    beside = ''.join(topic.rpartition('/')[:2]) + CAMERA_INFO if topic else ''
    info = given.get('camera_info_topic', beside)
    return [*rules, (CAMERA_INFO, info)] if info else rules


def _session(given: dict[str, str], node: LifecycleNode) -> list[Action]:
    """Play the bag when, and only if, the node becomes active."""
    clock = ['--clock', str(CLOCK_HZ)] if given['use_sim_time'] == 'true' else []
    player = ExecuteProcess(
        cmd=['ros2', 'bag', 'play', given['bag'], *clock, '--disable-keyboard-controls'],
        output='screen',
        # What RViz shows last may be looked at until its window is closed.
        on_exit=None if given['rviz'] == 'true' else _end('the bag has been played', GRACE_S),
    )
    active = OnStateTransition(
        target_lifecycle_node=node, goal_state='active', handle_once=True, entities=[player]
    )
    refused = OnStateTransition(
        target_lifecycle_node=node,
        start_state='configuring',
        goal_state='unconfigured',
        entities=_end('the node has refused its configuration; it says above why'),
    )
    return [RegisterEventHandler(active), RegisterEventHandler(refused)]


def _end(reason: str, after_s: float = 0.0) -> list[Action]:
    """Shut all down, unless that is what ended the process in the first place."""

    def end(context: LaunchContext) -> list[Action]:
        if context.is_shutdown:
            return []
        shutdown = EmitEvent(event=Shutdown(reason=reason))
        return [LogInfo(msg=f'ending: {reason}'), TimerAction(period=after_s, actions=[shutdown])]

    return [OpaqueFunction(function=end)]


def _rviz(given: dict[str, str]) -> Node:
    root = given['namespace'].rstrip('/')
    camera = given.get('image_topic', IMAGE)
    camera = camera if camera.startswith('/') else f'{root}/{camera}'
    if given.get('image_transport') == 'compressed':
        camera += COMPRESSED_SUFFIX

    def placed(match: re.Match[str]) -> str:
        first, _, rest = match['topic'].partition('/')
        if match['topic'] == IMAGE:
            return camera
        return f'{root}/{given["node_name"] if first == NODE_NAME else first}/{rest}'

    # RViz shows topics as its file names them: they are written there, not remapped.
    text = _file(given['rviz_config']).read_text(encoding='utf-8')
    text = re.sub(r'(?<=Value: )/(?P<topic>\S+)$', placed, text, flags=re.MULTILINE)
    config = Path(launch.logging.launch_config.get_log_file_path('view.rviz'))
    config.write_text(text, encoding='utf-8')
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(config)],
        parameters=[{'use_sim_time': given.get('use_sim_time') == 'true'}],
        output='screen',
        on_exit=_end('RViz has been closed') if 'bag' in given else None,
    )


def _transport(given: dict[str, str]) -> list[Action]:
    if given['large_frames'] != 'true':
        return []
    return [SetEnvironmentVariable(*pair) for pair in large_frames_environment().items()]


def _file(name: str) -> Path:
    """A file by its path, or by its name in the package's config/."""
    for path in (Path(name), config_dir() / name):
        if path.is_file():
            return path
    like = sorted(path.name for path in config_dir().glob(f'*{Path(name).suffix}'))
    raise SettingError(f'no file {name!r}; give a path, or one of {", ".join(like)}')
