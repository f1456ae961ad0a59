# SPDX-License-Identifier: Apache-2.0
"""Tests of the packaging: build files, commands, data files, launch files, profiles."""

import json
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
from repository import ROOT
from test_imports import packages_of

import segmentation_node
from segmentation_node import topics
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline.live_scores import SIGNALS, LiveScores
from segmentation_node.ros.transport import local_environment

PARAMETER_FILES = sorted((ROOT / 'config').glob('*.yaml'))
PROFILE = ROOT / 'config' / 'transport_fastdds.xml'
LARGE_FRAME_BYTES = 2048 * 1024 * 3

needs_ros = pytest.mark.skipif(
    find_spec('rclpy') is None, reason='ROS 2 is not installed: pip install ".[ros]"'
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
    imported = set().union(*map(packages_of, package)) - sys.stdlib_module_names
    for module in sorted(imported - {'segmentation_node'}):
        names = {name.replace('_', '-').lower() for name in distributions.get(module, [module])}
        names |= {name.replace('ros-', 'ros-jazzy-') for name in names}
        assert module in ros_packages or names & required, f'{module} is required nowhere'


def test_the_manual_installs_with_pip_what_rosdep_does_not(
    project: dict[str, Any], manifest: ET.Element
) -> None:
    required = {re.split(r'[<>=~! ]', line)[0] for line in project['install_requires']}
    keys = {str(element.text) for element in manifest.iter('exec_depend')}
    keyed = {key.removeprefix('python3-').removesuffix('-pip') for key in keys}
    named = {'opencv': 'opencv-python-headless', 'pytorch': 'torch', 'yaml': 'pyyaml'}
    for page in ('docs/ros-interface.md', '.github/workflows/ci.yml'):
        text = (ROOT / page).read_text(encoding='utf-8')
        found = re.search(r'^ *pip install (.+)$', text, re.MULTILINE)
        assert found
        assert set(found[1].split()) == required - {named.get(key, key) for key in keyed}


def test_nothing_is_installed_into_the_python_of_the_system(manifest: ET.Element) -> None:
    assert not [key.text for key in manifest.iter() if str(key.text).endswith('-pip')]
    pages = [ROOT / 'README.md', *ROOT.glob('docs/**/*.md'), ROOT / 'Dockerfile']
    assert not [
        page for page in pages if re.search('break.system.packages', page.read_text(), re.I)
    ]


def test_commands_run_on_the_python_of_an_active_environment(tmp_path: Path) -> None:
    command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', str(tmp_path)]
    command += ['install_scripts', '--install-dir', str(tmp_path / 'bin')]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    first, _, _ = (tmp_path / 'bin' / 'segmentation_node').read_text().partition('\n')
    assert first == '#!/usr/bin/env python3'


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
    for folder in ('config', 'launch', 'resource/demo', 'resource/models', 'resource/samples'):
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
@pytest.mark.parametrize('path', PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_file_names_the_model_and_what_differs(path: Path) -> None:
    from segmentation_node.ros.parameters import Parameters

    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    values = content.pop('/**').pop('ros__parameters')
    assert not content
    assert Parameters(**values).model == path.stem
    repeated = [n for n, v in values.items() if n != 'model' and v == _defaults()[n]]
    assert not repeated


def test_nav2_is_told_the_topics_and_the_classes_of_the_node() -> None:
    folder = ROOT / 'config' / 'nav2'
    content = yaml.safe_load((folder / 'semantic_segmentation_layer.yaml').read_text('utf-8'))
    costmap = content['local_costmap']['local_costmap']['ros__parameters']
    layer = costmap['semantic_layer']
    assert costmap['plugins'].index('semantic_layer') < costmap['plugins'].index('inflation_layer')
    source = layer[layer['observation_sources']]
    assert {
        name: source[f'{name}_topic'] for name in ('segmentation', 'confidence', 'labels')
    } == {
        'segmentation': topics.resolved(topics.LABEL_MASK),
        'confidence': topics.resolved(topics.CONFIDENCE),
        'labels': topics.resolved(topics.LABEL_INFO),
    }
    listed = [name for kind in source['class_types'] for name in source[kind]['classes']]
    names = {label.name for label in load_scheme('cityscapes8').classes}
    assert sorted(listed) == sorted(names - {'void', 'sky'})
    manager = yaml.safe_load((folder / 'lifecycle_manager.yaml').read_text('utf-8'))
    values = manager['lifecycle_manager_segmentation']['ros__parameters']
    assert values['node_names'] == [topics.NODE_NAME]
    assert values['bond_timeout'] == 0.0


def test_nav2_is_told_the_topic_of_the_points() -> None:
    path = ROOT / 'config' / 'nav2' / 'label_cloud_voxel_layer.yaml'
    content = yaml.safe_load(path.read_text('utf-8'))
    layer = content['local_costmap']['local_costmap']['ros__parameters']['voxel_layer']
    source = layer['labeled']
    assert 'labeled' in layer['observation_sources'].split()
    assert source['topic'] == f'/{topics.CLOUD_NODE_NAME}/{topics.POINTS}'
    assert source['data_type'] == 'PointCloud2'
    assert source['max_obstacle_height'] > source['min_obstacle_height']
    load_scheme('cityscapes8').id_of('flat')
    load_scheme('cityscapes8').id_of('sky')


@pytest.fixture(scope='module')
def foxglove() -> dict[str, Any]:
    """The layout for Foxglove."""
    path = ROOT / 'config' / 'foxglove_layout.json'
    layout: dict[str, Any] = json.loads(path.read_text('utf-8'))
    return layout


def test_foxglove_arranges_every_panel_once(foxglove: dict[str, Any]) -> None:
    def panels(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert set(part) == {'first', 'second', 'direction', 'splitPercentage'}
        return panels(part['first']) + panels(part['second'])

    assert sorted(panels(foxglove['layout'])) == sorted(foxglove['configById'])
    kinds = {panel.partition('!')[0] for panel in foxglove['configById']}
    assert kinds == {'3D', 'DiagnosticSummary', 'Image', 'Plot', 'RawMessages'}


def test_foxglove_shows_topics_of_the_nodes(foxglove: dict[str, Any]) -> None:
    (script,) = (script['sourceCode'] for script in foxglove['userNodes'].values())
    (made,) = re.findall(r'export const output = "(/\w+/\w+)"', script)
    named = set(re.findall(r'"(/[\w/]+)', json.dumps(foxglove['configById']) + script))
    assert named == {
        f'/{topics.IMAGE}',
        topics.resolved(topics.OVERLAY),
        topics.resolved(topics.SCORES),
        topics.DIAGNOSTICS,
        f'/{topics.CLOUD_NODE_NAME}/{topics.POINTS}',
        made,
    }


def test_foxglove_plots_figures_of_the_scores(foxglove: dict[str, Any]) -> None:
    (script,) = (script['sourceCode'] for script in foxglove['userNodes'].values())
    scores = LiveScores(1, {'camera': '/truth'}, lambda _: False).take_report('camera')
    read = re.findall(r'scores\.(\w+)\.newest', script)
    assert sorted(read) == sorted(SIGNALS)
    assert all('newest' in scores[name] for name in read)
    assert 'window' in scores['truth']
    plots = [p for name, p in foxglove['configById'].items() if name.startswith('Plot!')]
    drawn = [path['value'].rpartition('.')[2] for plot in plots for path in plot['paths']]
    assert sorted(drawn) == sorted([*SIGNALS, 'miou'])
    assert all(f'{name}: number;' in script for name in drawn)


def _defaults() -> dict[str, Any]:
    from segmentation_node.ros.parameters import Parameters

    return {f.name: getattr(Parameters(), f.name) for f in fields(Parameters)}


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
