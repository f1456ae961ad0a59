# SPDX-License-Identifier: Apache-2.0
"""Starts the segmentation node on a camera and, when asked, plays a bag and opens RViz.

An argument left empty is not passed on: there the parameter file holds, or else the default
that the node itself declares.
"""

import re
from pathlib import Path

import launch.logging
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from segmentation_node.errors import SettingError
from segmentation_node.paths import config_dir
from segmentation_node.topics import CAMERA_INFO, COMPRESSED_SUFFIX, IMAGE, NODE_NAME

#: Arguments that are parameters of the node by the same name.
NODE_PARAMETERS = ('model', 'runtime', 'device', 'image_transport')
#: Under simulated time a latency cannot be told finer than the clock ticks.
CLOCK_HZ = 200
#: Between the last frame of a bag and the end, for the masks still to come.
GRACE_S = 2.0


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what they mean together is worked out once all are known."""
    return LaunchDescription([*_arguments(), OpaqueFunction(function=_start)])


def _arguments() -> list[Action]:
    return [
        _optional('model', 'Bundled model, folder of a checkpoint, or Hugging Face hub id'),
        _optional('image_topic', 'Topic of the images, without the suffix of a transport'),
        _optional('camera_info_topic', 'Empty: camera_info beside image_topic'),
        _optional('image_transport', 'How the images are sent', 'raw', 'compressed'),
        _optional('params_file', "Parameter file: a path, or a file in the package's config/"),
        _optional('namespace', 'Name space of the node and of topics without a leading /'),
        DeclareLaunchArgument('node_name', default_value=NODE_NAME, description='Its name'),
        _optional('device', 'Where the network runs: auto, cpu, cuda, cuda:1, ...'),
        _optional('runtime', 'What runs the network', 'auto', 'torch'),
        _optional('use_sim_time', 'Follow /clock; empty: if a bag is played', 'true', 'false'),
        _switch('rviz', 'Show the camera, the overlay and the colour mask in RViz'),
        DeclareLaunchArgument(
            'rviz_config',
            default_value='segmentation.rviz',
            description="RViz configuration: a path, or a file in the package's config/",
        ),
        _optional(
            'bag', 'Bag to play once the node is active. All ends with it, or with RViz if shown'
        ),
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
            raise SettingError(f'bag {given["bag"]!r} does not exist; give a folder or file')
        given.setdefault('use_sim_time', 'true')
    if given.get('image_topic', '').endswith(COMPRESSED_SUFFIX):
        raise SettingError(
            f'image_topic {given["image_topic"]!r} names a transport; leave out '
            f'{COMPRESSED_SUFFIX!r} and say image_transport:=compressed'
        )
    # A parent launch file may have pushed a name space.
    given['namespace'] = make_namespace_absolute(
        prefix_namespace(given.get('ros_namespace'), given.get('namespace', '/'))
    )
    node = _node(given)
    rviz = [_rviz(given)] if given['rviz'] == 'true' else []
    session = _session(given, node, *rviz) if 'bag' in given else []
    return [*_transport(given), *session, node, *rviz]


def _node(given: dict[str, str]) -> LifecycleNode:
    values: dict[str, object] = {
        name: ParameterValue(given[name], value_type=str)
        for name in NODE_PARAMETERS
        if name in given
    }
    if 'use_sim_time' in given:
        values['use_sim_time'] = given['use_sim_time'] == 'true'
    parameters: list[object] = [values] if values else []
    if 'params_file' in given:
        parameters.insert(0, ParameterFile(_file(given['params_file']), allow_substs=False))
    logging = []
    if 'log_level' in given:
        logger = f'{given["namespace"]}/{given["node_name"]}'.strip('/').replace('/', '.')
        logging = ['--log-level', f'{logger}:={given["log_level"]}']
    return LifecycleNode(
        package='segmentation_node',
        executable='segmentation_node',
        name=given['node_name'],
        namespace=given.get('namespace', ''),
        parameters=parameters,
        remappings=_remappings(given),
        ros_arguments=logging,
        output='screen',
    )
