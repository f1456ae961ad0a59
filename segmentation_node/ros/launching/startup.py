# SPDX-License-Identifier: Apache-2.0
"""Processes of a launch file: their checks, start order and end.

Everything is checked before the first process starts: if an action list of launch fails halfway,
launch loses track of the processes that it has started, and they would outlive it. Each further
process is started by an event of the one before, whose failure launch handles.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import launch.logging
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch import Action, Event, EventHandler, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile
from launch_ros.ros_adapters import get_ros_node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from segmentation_node.errors import SettingError, printable
from segmentation_node.interrupt import SIGNALS
from segmentation_node.paths import PACKAGE
from segmentation_node.ros.launching.arguments import Argument, check_names
from segmentation_node.ros.launching.launch_settings import LaunchSettings, NodeSettings
from segmentation_node.ros.launching.rviz import with_topics
from segmentation_node.ros.transport import large_frames_environment
from segmentation_node.topics import DIAGNOSTICS

#: Pause before a node is restarted.
RESPAWN_S: Final = 0.5
#: Time after the end of a bag for the last masks.
GRACE_S: Final = 2.0

#: Exit statuses of a process that ended as requested, by itself or by Ctrl-C or SIGTERM.
REQUESTED: Final = frozenset({0} | {status for n in SIGNALS for status in (-n, 128 + n)})

#: Returns the model of each node by its name, given the launch arguments.
ModelsOf = Callable[[Mapping[str, str]], Mapping[str, str]]


def description(
    file: str, arguments: Sequence[Argument], models: ModelsOf, *, cloud: bool = False
) -> LaunchDescription:
    """Return the description of a launch file that runs one node per model.

    With `cloud`, it also runs the node label_cloud.
    """

    def start(context: LaunchContext) -> list[Action]:
        # If another launch file includes this one, the command line belongs to that file.
        if Path(file).name in {Path(word).name for word in sys.argv}:
            check_names(context.argv, arguments)
        given = {a.name: context.launch_configurations[a.name] for a in arguments}
        # A launch file that includes this one may have pushed a namespace.
        pushed = context.launch_configurations.get('ros_namespace')
        namespace = make_namespace_absolute(prefix_namespace(pushed, given['namespace']))
        settings = LaunchSettings.from_arguments(given, models(given), namespace, cloud=cloud)
        return LaunchSession(settings).start()

    return LaunchDescription([*map(_declaration, arguments), OpaqueFunction(function=start)])


def _declaration(argument: Argument) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(
        argument.name,
        default_value=argument.default,
        description=argument.description,
        choices=argument.choices,
    )


class LaunchSession:
    """Nodes, RViz and a bag player, which end together.

    Other processes of the same launch are not affected.
    """

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings
        self._is_over = False
        self._inactive = {node.full_name for node in settings.all_nodes}
        for node in settings.all_nodes:
            _check_executable(PACKAGE, node.executable, 'build and source this package')
        nodes = [self._node(node) for node in settings.all_nodes]
        rviz = [] if settings.rviz_config is None else [self._rviz(settings.rviz_config)]
        self._player = self._bag_player() if settings.play else None
        self._start_order: list[ExecuteProcess] = [*nodes, *rviz]

    def start(self) -> list[Action]:
        """Return the actions that start all processes."""
        environment = large_frames_environment() if self._settings.large_frames else {}
        starts = [
            RegisterEventHandler(
                OnProcessStart(target_action=before, on_start=[after], handle_once=True)
            )
            for before, after in pairwise(self._start_order)
        ]
        watch = [] if self._player is None else [OpaqueFunction(function=self._play_once_active)]
        variables = [SetEnvironmentVariable(*pair) for pair in environment.items()]
        return [*variables, *watch, *starts, self._start_order[0]]

    # Processes

    def _node(self, node: NodeSettings[Any]) -> Node:
        settings = self._settings
        more: dict[str, object] = {}
        if settings.use_sim_time is not None:
            more['use_sim_time'] = settings.use_sim_time
        logger = _logger_name(node)
        files = [settings.params_file] if settings.params_file else []
        if node.values or more:
            files.append(_log_file(f'{logger}.yaml', node.parameter_file(**more)))
        return Node(
            package=PACKAGE,
            executable=node.executable,
            name=node.name,
            namespace=node.namespace,
            parameters=[ParameterFile(file, allow_substs=False) for file in files],
            remappings=settings.remappings,
            ros_arguments=[
                *(
                    ['--log-level', f'{logger}:={settings.log_level}']
                    if settings.log_level
                    else []
                ),
                *(['--enclave', settings.enclave] if settings.enclave else []),
            ],
            output='screen',
            respawn=settings.respawn,
            respawn_delay=RESPAWN_S,
            on_exit=self._on_node_exit,
        )

    def _rviz(self, config: Path) -> Node:
        _check_executable('rviz2', 'rviz2', 'install it, or omit rviz:=true')
        name = f'{_logger_name(self._settings.nodes[0])}.rviz'
        written = _log_file(name, with_topics(config, self._settings))
        return Node(
            package='rviz2',
            executable='rviz2',
            arguments=['-d', str(written)],
            parameters=[{'use_sim_time': self._settings.use_sim_time is True}],
            output='screen',
            on_exit=self._on_rviz_exit,
        )

    def _bag_player(self) -> ExecuteProcess:
        if shutil.which('ros2') is None or not _has_package('ros2bag'):
            raise SettingError(
                'bag:= requires "ros2 bag play", but package ros2bag is not installed; '
                'install it, or play the bag with replay_bag'
            )
        return ExecuteProcess(
            cmd=['ros2', 'bag', 'play', *self._settings.play],
            output='screen',
            on_exit=self._on_player_exit,
        )

    # Events

    def _on_node_exit(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        if self._settings.respawn:
            return []
        return self._end(context, 'the node has ended', event.returncode)

    def _on_rviz_exit(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode in REQUESTED and self._player is None:
            return []
        return self._end(context, 'RViz has ended', event.returncode)

    def _on_player_exit(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode not in REQUESTED:
            return self._end(context, 'the bag could not be played', event.returncode)
        if self._settings.rviz_config is not None:
            return []  # its last images stay visible until the window is closed
        end = OpaqueFunction(function=lambda c: self._end(c, 'the bag has been played'))
        return [TimerAction(period=GRACE_S, actions=[end])]

    def _play_once_active(self, context: LaunchContext) -> list[Action]:
        """Play the bag once all nodes are active; end the session if a node reports an error.

        The diagnostics repeat the state every second. A transition event is published only once,
        possibly before launch has subscribed.
        """
        loop = context.asyncio_loop

        def on_diagnostics(message: Any) -> None:
            for status in message.status:
                if status.name in self._inactive:
                    # This runs in the thread of launch's own node.
                    event = _StatusReceived(self, status)
                    loop.call_soon_threadsafe(context.emit_event_sync, event)

        node = get_ros_node(context)
        node.create_subscription(DiagnosticArray, DIAGNOSTICS, on_diagnostics, 10)
        handler = EventHandler(
            matcher=lambda event: isinstance(event, _StatusReceived) and event.session is self,
            entities=OpaqueFunction(function=self._on_status),
        )
        return [RegisterEventHandler(handler)]

    def _on_status(self, context: LaunchContext) -> list[Action]:
        status = context.locals.event.status
        if self._is_over or status.name not in self._inactive:
            return []
        state = {value.key: value.value for value in status.values}.get('state')
        if state == 'active':
            self._inactive.remove(status.name)
            return [] if self._inactive or self._player is None else [self._player]
        if status.level == DiagnosticStatus.ERROR:
            return self._end(context, f'{status.name} is {printable(status.message, 500)}', 1)
        return []

    def _end(self, context: LaunchContext, reason: str, status: int = 0) -> list[Action]:
        """End all processes of the session; launch ends with 1 if the status means failure."""
        if self._is_over or context.is_shutdown:
            return []
        self._is_over = True
        logger = launch.logging.get_logger('launch.user')
        if status not in REQUESTED:
            logger.error(f'ending: {reason} (status {status})')
            # launch ends with status 1 if its event loop has reported an error.
            context.asyncio_loop.call_exception_handler({'message': 'launch ends with status 1'})
        else:
            logger.info(f'ending: {reason}')
        running = [*self._start_order, *([self._player] if self._player else [])]
        return [
            EmitEvent(event=ShutdownProcess(process_matcher=matches_action(process)))
            for process in running
        ]


class _StatusReceived(Event):  # type: ignore[misc]  # launch is not typed
    """Event: the diagnostics of a node have arrived."""

    name = f'{PACKAGE}.StatusReceived'

    def __init__(self, session: LaunchSession, status: DiagnosticStatus) -> None:
        self.session, self.status = session, status


def _logger_name(node: NodeSettings[Any]) -> str:
    return node.full_name.strip('/').replace('/', '.')


def _log_file(name: str, text: str) -> Path:
    """Write a file next to the log files of this launch."""
    path = Path(launch.logging.launch_config.get_log_file_path(name))
    path.write_text(text, encoding='utf-8')
    return path


def _check_executable(package: str, executable: str, remedy: str) -> None:
    """Raise SettingError if a package or its executable is not installed."""
    path = Path()
    if _has_package(package):
        path = Path(get_package_prefix(package), 'lib', package, executable)
    if not os.access(path, os.X_OK) or path.is_dir():
        raise SettingError(f'package {package} is not installed with its executable; {remedy}')


def _has_package(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True
