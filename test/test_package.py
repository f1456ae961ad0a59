# SPDX-License-Identifier: Apache-2.0
"""Tests of the packaging: build files, commands, data files, launch files, profiles."""

import ast
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import fields
from functools import partial
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from test_imports import imports_of

import segmentation_node
from segmentation_node import topics
from segmentation_node.transport import local_environment

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PARAMETER_FILES = sorted((ROOT / 'config').glob('*.yaml'))
PROFILE = ROOT / 'config' / 'transport_fastdds.xml'
LARGE_FRAME_BYTES = 2048 * 1024 * 3

needs_ros = pytest.mark.skipif(
    find_spec('rclpy') is None, reason='ROS 2 is not installed: pip install ".[ros]"'
)
needs_launch = pytest.mark.skipif(
    find_spec('launch_ros') is None, reason='launch_ros comes with a ROS installation only'
)


@pytest.fixture(scope='module')
def project() -> dict[str, Any]:
    """Arguments that setup.py passes to setuptools."""
    with pytest.MonkeyPatch.context() as patch, mock.patch('setuptools.setup') as setup:
        patch.chdir(ROOT)
        runpy.run_path('setup.py')
    return dict(setup.call_args.kwargs)


@pytest.fixture(scope='module')
def manifest() -> ET.Element:
    """The root of package.xml."""
    return ET.parse(ROOT / 'package.xml').getroot()  # noqa: S314 (our own file)


def test_manifest_and_setup_agree(project: dict[str, Any], manifest: ET.Element) -> None:
    assert project['version'] == manifest.findtext('version') == segmentation_node.__version__
    assert project['name'] == manifest.findtext('name') == 'segmentation_node'
    assert project['license'] == manifest.findtext('license')
    maintainer = manifest.find('maintainer')
    assert maintainer is not None
    assert project['maintainer_email'] == maintainer.get('email')
    assert project['maintainer'] == maintainer.text
    assert manifest.findtext('export/build_type') == 'ament_python'


def test_every_library_imported_is_required(project: dict[str, Any], manifest: ET.Element) -> None:
    extras = project['extras_require']
    rooms = chain.from_iterable(
        extras[room] for room in ('ros', 'demo', 'torch', 'int8', 'onnx', 'web')
    )
    wanted = [*project['install_requires'], *rooms]
    required = {re.split(r'[\[<>=~! ]', line)[0].replace('_', '-').lower() for line in wanted}
    ros_packages = {element.text for element in manifest.iter('exec_depend')}
    distributions = packages_distributions()
    package = (ROOT / 'segmentation_node').rglob('*.py')
    imported = set().union(*map(imports_of, package)) - sys.stdlib_module_names
    for module in sorted(imported - {'segmentation_node'}):
        names = {name.replace('_', '-').lower() for name in distributions.get(module, [module])}
        names |= {name.replace('ros-', 'ros-jazzy-') for name in names}
        assert module in ros_packages or names & required, f'{module} is required nowhere'


def test_what_rosdep_does_not_install_the_readme_does(
    project: dict[str, Any], manifest: ET.Element
) -> None:
    required = {re.split(r'[<>=~! ]', line)[0] for line in project['install_requires']}
    keys = {str(element.text) for element in manifest.iter('exec_depend')}
    keyed = {key.removeprefix('python3-').removesuffix('-pip') for key in keys}
    named = {'opencv': 'opencv-python-headless', 'pytorch': 'torch', 'yaml': 'pyyaml'}
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    found = re.search(r'^pip install (.+)$', readme, re.MULTILINE)
    assert found
    assert set(found[1].split()) == required - {named.get(key, key) for key in keyed}


def test_every_command_can_be_called(project: dict[str, Any]) -> None:
    commands = project['entry_points']['console_scripts']
    assert 'segmentation_node = segmentation_node.entry:segmentation_node' in commands
    for command in commands:
        module, function = command.split(' = ')[1].split(':')
        run = getattr(import_module(module), function)
        if not isinstance(run, partial):
            assert callable(run)
        elif not run.args[0].startswith('ros.') or find_spec('rclpy') is not None:
            assert callable(import_module(f'segmentation_node.{run.args[0]}').main), command


def test_every_data_file_is_installed_where_it_is_looked_for(project: dict[str, Any]) -> None:
    installed = {
        file: f'{folder}/{Path(file).name}'
        for folder, files in project['data_files']
        for file in files
    }
    for folder in ('config', 'launch', 'resource/models'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc':
                file = path.relative_to(ROOT).as_posix()
                assert installed[file] == f'share/segmentation_node/{file}'
    marker = 'share/ament_index/resource_index/packages/segmentation_node'
    assert installed['resource/segmentation_node'] == marker
    assert installed['package.xml'] == 'share/segmentation_node/package.xml'


def test_packages_are_all_there_and_nothing_else(project: dict[str, Any]) -> None:
    folders = {path.parent for path in (ROOT / 'segmentation_node').rglob('*.py')}
    names = {folder.relative_to(ROOT).as_posix().replace('/', '.') for folder in folders}
    assert set(project['packages']) == names


@needs_ros
@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_repeats_no_default_of_the_node(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    defaults = {value for value in _defaults().values() if isinstance(value, str) and value}
    assert defaults, 'the node declares no texts any more; this test has lost its object'
    assert not texts & defaults


@needs_ros
@pytest.mark.parametrize('path', PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_file_names_the_model_and_what_differs(path: Path) -> None:
    from segmentation_node.ros.parameters import Parameters

    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    values = content.pop('/**').pop('ros__parameters')
    assert not content
    assert Parameters(**values).model == path.stem
    repeated = [n for n, v in values.items() if n != 'model' and v == _defaults()[n]]
    assert not repeated


def _defaults() -> dict[str, Any]:
    from segmentation_node.ros.parameters import Parameters

    return {f.name: getattr(Parameters(), f.name) for f in fields(Parameters)}


@pytest.mark.parametrize('name', ['segmentation', 'compare'])
def test_rviz_shows_topics_that_there_are(name: str) -> None:
    content = yaml.safe_load((ROOT / 'config' / f'{name}.rviz').read_text(encoding='utf-8'))
    displays = content['Visualization Manager']['Displays']
    shown = {d['Topic']['Value']: d['Topic']['Reliability Policy'] for d in displays}
    assert shown.pop(f'/{topics.IMAGE}') == 'Best Effort'
    nodes = {'segmentation': [topics.NODE_NAME], 'compare': ['left', 'right']}[name]
    outputs = (topics.OVERLAY, topics.COLOR_MASK)
    assert set(shown) == {f'/{node}/{output}' for node in nodes for output in outputs}
    panels = {d['Name'] for d in displays} | {'Displays'}
    assert panels <= set(content['Window Geometry'])


@needs_ros
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc is asked what is mapped')
def test_fast_dds_takes_the_profile_and_makes_room() -> None:
    assert _shared_memory_bytes({}) < LARGE_FRAME_BYTES
    variable = 'FAST{}_DEFAULT_PROFILES_FILE'
    profile = {variable.format(name): str(PROFILE) for name in ('RTPS', 'DDS')}
    assert _shared_memory_bytes(profile) >= 8 * LARGE_FRAME_BYTES
    assert _shared_memory_bytes(local_environment(large_frames=False)) < LARGE_FRAME_BYTES


def _shared_memory_bytes(environment: dict[str, str]) -> int:
    """Size of the largest shared memory that a ROS process maps."""
    program = (
        'import rclpy\n'
        'rclpy.init()\n'
        'node = rclpy.create_node("probe")\n'
        'for line in open("/proc/self/maps"):\n'
        '    if "/dev/shm/" in line: print(line.split()[0])\n'
    )
    clean = {k: v for k, v in os.environ.items() if not k.endswith('_DEFAULT_PROFILES_FILE')}
    isolated = {
        'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp',
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    ran = subprocess.run(
        [sys.executable, '-c', program],
        env={**clean, **isolated, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert 'error' not in ran.stderr.lower()
    ranges = [line.split('-') for line in ran.stdout.split()]
    return max(int(end, 16) - int(begin, 16) for begin, end in ranges)


@needs_launch
@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_describes_its_arguments(path: Path) -> None:
    arguments = {argument.name: argument for argument in _description(path).get_launch_arguments()}
    assert {
        'model', 'image_topic', 'camera_info_topic', 'image_transport', 'params_file', 'namespace',
        'device', 'runtime', 'use_sim_time', 'rviz', 'bag', 'log_level',
    } <= set(arguments)  # fmt: skip
    for name, argument in arguments.items():
        assert argument.description not in ('', 'no description given'), name
    for name in set(arguments) & set(_defaults()):
        assert ''.join(part.text for part in arguments[name].default_value) == ''


@needs_launch
@pytest.mark.parametrize(
    ('arguments', 'rules'),
    [
        ({}, []),
        (
            {'image_topic': '/front/image_raw'},
            [
                ('image', '/front/image_raw'),
                ('image/compressed', '/front/image_raw/compressed'),
                ('camera_info', '/front/camera_info'),
            ],
        ),
        ({'camera_info_topic': 'info'}, [('camera_info', 'info')]),
    ],
)
def test_topics_given_are_remapped(arguments: dict[str, str], rules: list[Any]) -> None:
    node = _launched(arguments)[-1]
    assert (node.expanded_remapping_rules or []) == rules


@needs_launch
@pytest.mark.parametrize(
    ('arguments', 'follows'),
    [
        ({}, None),
        ({'bag': '.'}, True),
        ({'bag': '.', 'use_sim_time': 'false'}, False),
        ({'use_sim_time': 'true'}, True),
    ],
)
def test_both_compared_nodes_follow_one_clock(
    arguments: dict[str, str], follows: bool | None
) -> None:
    from launch import LaunchContext
    from launch.actions import ExecuteProcess

    context = LaunchContext()
    context.launch_configurations.update({**arguments, 'rviz': 'false'})
    entities = list(_description(ROOT / 'launch' / 'compare.launch.py').entities)
    found: dict[str, Any] = {}
    while entities:
        entity = entities.pop(0)
        if isinstance(entity, ExecuteProcess):
            values = _performed(entity, context)
            found[entity.node_name] = values.get('use_sim_time')
        else:
            entities[:0] = entity.visit(context) or []
    assert found == {'/left': follows, '/right': follows}


@needs_launch
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'runtime': 'abacus'}, 'abacus'),
        ({'image_transport': 'theora'}, 'theora'),
        ({'rviz': 'yes'}, 'yes'),
        ({'params_file': 'missing.yaml'}, 'deeplabv3plus.yaml, mask2former.yaml'),
        ({'bag': '/missing'}, "no bag '/missing'"),
        ({'image_topic': '/image/compressed'}, 'image_transport:=compressed'),
    ],
)
def test_bad_argument_is_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        _launched(arguments)


def _description(path: Path) -> Any:
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    return PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())


def _launched(arguments: dict[str, str]) -> list[Any]:
    """Actions that seg.launch.py comes to, the node last, its substitutions performed."""
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(arguments)
    *declared, start = _description(ROOT / 'launch' / 'seg.launch.py').entities
    for argument in declared:
        argument.execute(context)
    actions = start.execute(context)
    _performed(actions[-1], context)
    return list(actions)


def _performed(node: Any, context: Any) -> dict[str, Any]:
    """Perform a node's substitutions; returns the values of its parameters."""
    with mock.patch('launch_ros.substitutions.ExecutableInPackage.perform', return_value='node'):
        node._perform_substitutions(context)
    values: dict[str, Any] = {}
    for file, _ in node._Node__expanded_parameter_arguments or []:
        for content in yaml.safe_load(Path(file).read_text(encoding='utf-8')).values():
            values.update(content['ros__parameters'])
    return values
