# SPDX-License-Identifier: Apache-2.0
"""Launch files: arguments, resulting settings, topics of RViz, and whole launches.

The tests of whole launches require launch_ros, ros2launch and this package, built and sourced, as
in a ROS installation; PyPI has no launch.
"""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from patience import PATIENCE_S
from repository import ROOT

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

import rclpy
from bag_making import image_cdr, image_topic, stamp_ns
from rcl_interfaces.srv import GetParameters
from ros_process import DOMAIN_ID, Probe, isolated_environment
from test_imports import HEAVY, import_without

from segmentation_node import topics
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import SettingError
from segmentation_node.paths import config_dir
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.launching import arguments
from segmentation_node.ros.launching.arguments import (
    COMPARE,
    LABEL_CLOUD,
    SEG,
    check_names,
    parameter_values,
)
from segmentation_node.ros.launching.launch_settings import LaunchSettings
from segmentation_node.ros.launching.rviz import with_topics
from segmentation_node.ros.parameters import Parameters

LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
#: Libraries that may be missing for a launch file: only the virtual environment has them.
OF_THE_VENV = ('apsw', 'lz4', 'mcap', 'openvino', 'rosbags', 'tqdm', 'zstandard', *HEAVY)


def settings(models: dict[str, str] | None = None, /, **given: str) -> LaunchSettings:
    """Return the settings of launch arguments, with defaults for all others."""
    defaults = {argument.name: argument.default for argument in SEG}
    return LaunchSettings.from_arguments(
        {**defaults, **given},
        models or {topics.NODE_NAME: ''},
        f'/{given.get("namespace", "").strip("/")}',
    )


def default(name: str) -> Any:
    return getattr(Parameters(), name)


@pytest.mark.parametrize('declared', [SEG, COMPARE], ids=['seg', 'compare'])
def test_every_parameter_of_the_node_is_an_argument(declared: Any) -> None:
    described = {argument.name: argument for argument in declared}
    assert len(described) == len(declared)
    for field in fields(Parameters):
        assert described[field.name].default == ''
        assert field.metadata['description'] in described[field.name].description
    assert all(argument.description for argument in declared)


@pytest.mark.parametrize('field', fields(Parameters), ids=lambda field: field.name)
def test_an_argument_has_the_type_of_its_parameter(field: Any) -> None:
    values = {bool: False, int: 7, float: 1.0, str: '7', list[int]: [4, 5], list[str]: ['7', 'a']}
    value = values[get_type_hints(Parameters)[field.name]]
    parsed = parameter_values({field.name: str(int(value) if value == 1.0 else value)})
    assert parsed == {field.name: value}
    assert type(parsed[field.name]) is type(default(field.name))


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'cameras': 'front'}, "cameras is 'front'; expected a list such as \"['front', "),
        ({'cameras': '[1, 2]'}, "cameras is '[1, 2]'; expected a list"),
        ({'cameras': '[[['}, "cameras is '[[['; expected a list"),
        ({'input_size': '[512, 10.5]'}, 'expected a list such as "[512, 1024]"'),
        ({'max_image_pixels': '1e6'}, "max_image_pixels is '1e6'; expected an integer"),
        ({'max_rate_hz': 'fast'}, "max_rate_hz is 'fast'; expected a number"),
        ({'max_rate_hz': 'nan'}, "max_rate_hz is 'nan'; expected a number"),
        ({'autostart': 'maybe'}, "autostart is 'maybe'; expected true or false"),
        ({'rviz': 'yes'}, "rviz is 'yes'; expected true or false"),
        ({'label_scheme': 'roads'}, "label_scheme is 'roads'; choose one of"),
        ({'input_size': '[5000, 5000]'}, 'max_image_pixels is 8388608'),
        ({'params_file': 'missing.yaml'}, 'deeplabv3plus.yaml, mask2former.yaml'),
        ({'rviz': 'true', 'rviz_config': 'no.rviz'}, 'compare.rviz, segmentation.rviz'),
        ({'bag': '/missing'}, "bag '/missing' does not exist"),
        ({'bag': '.', 'respawn': 'true'}, 'bag and respawn exclude each other'),
        ({'bag': '.', 'bag_arguments': '"--loop'}, 'close the quotes'),
        ({'bag_arguments': '--loop'}, 'bag_arguments requires a bag'),
        ({'image_topic': '/image/compressed'}, 'image_transport:=compressed'),
        ({'image_topic': '/a', 'cameras': "['front']"}, 'image_topic cannot be used with cameras'),
        ({'camera_info_topic': '/a', 'cameras': "['b']"}, 'camera_info_topic cannot be used with'),
    ],
)
def test_bad_argument_is_refused_before_anything_starts(
    given: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        settings(**given)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['modle:=unet'], "'modle' is not an argument of this launch file; did you mean model?"),
        (['model:=unet', 'x:=1'], "'x' is not an argument of this launch file; --show-args lists"),
    ],
)
def test_unknown_argument_is_refused(words: list[str], message: str) -> None:
    check_names(['model:=unet', 'emulate_tty:=true', 'launch-prefix:=nice'], SEG)
    with pytest.raises(SettingError, match=re.escape(message)):
        check_names(words, SEG)


@pytest.mark.parametrize('text', ['true', 'True', 'TRUE', '1'])
def test_switches_take_the_spellings_of_other_launch_files(text: str) -> None:
    assert settings(rviz=text, use_sim_time=text).rviz_config == config_dir() / 'segmentation.rviz'
    assert settings(use_sim_time=text).use_sim_time is True
    assert settings(respawn=text).respawn


def test_a_bag_is_played_with_the_clock_and_the_arguments_given() -> None:
    clock = ['--clock', '200']
    quiet = ['--disable-keyboard-controls']
    played = settings(bag='.', bag_arguments="--rate 0.5 --remap '/a b:=/c'")
    assert list(played.play) == ['.', *clock, *quiet, '--rate', '0.5', '--remap', '/a b:=/c']
    assert played.use_sim_time is True
    by_wall_clock = settings(bag='.', use_sim_time='false')
    assert list(by_wall_clock.play) == ['.', *quiet]
    assert by_wall_clock.use_sim_time is False
    assert settings().use_sim_time is None
    assert settings().play == ()


def cloud_settings(**given: str) -> LaunchSettings:
    """Return the settings of arguments of label_cloud.launch.py, with defaults for all others."""
    defaults = {argument.name: argument.default for argument in LABEL_CLOUD}
    given = {**defaults, **given}
    return LaunchSettings.from_arguments(given, {given['node_name']: ''}, '/car', cloud=True)


def test_every_parameter_of_label_cloud_is_an_argument() -> None:
    described = {argument.name: argument for argument in LABEL_CLOUD}
    assert len(described) == len(LABEL_CLOUD)
    for field in fields(CloudParameters):
        assert field.metadata['description'] in described[f'cloud_{field.name}'].description
    assert 'cameras' not in described
    assert set(described) >= {argument.name for argument in SEG if argument.name != 'cameras'}


def test_label_cloud_runs_beside_the_node_that_makes_its_masks() -> None:
    found = cloud_settings(
        min_confidence='0.3', cloud_min_confidence='0.5', cloud_keep_classes="['human']",
        image_topic='/cam/image', depth_topic='/cam/depth', node_name='eye',
    )  # fmt: skip
    masks, cloud = found.all_nodes
    assert masks.full_name == '/car/eye'
    assert masks.values['min_confidence'] == 0.3
    assert (cloud.full_name, cloud.executable) == ('/car/label_cloud', 'label_cloud')
    assert cloud.values == {'min_confidence': 0.5, 'keep_classes': ['human']}
    rules = dict(found.remappings)
    assert rules['camera_info'] == '/cam/camera_info'
    assert rules['depth'] == '/cam/depth'
    assert rules['segmentation_node/label_mask'] == 'eye/label_mask'
    assert cloud_settings().nodes[0].executable == 'segmentation_node'


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'cloud_source': 'radar'}, "source is 'radar'; choose one of depth, cloud"),
        ({'cloud_tolerance_s': 'much'}, "cloud_tolerance_s is 'much'; expected a number"),
        ({'cloud_keep_classes': 'human'}, 'cloud_keep_classes is'),
    ],
)
def test_a_bad_argument_of_label_cloud_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        cloud_settings(**given)


@pytest.mark.parametrize(
    ('given', 'rules'),
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
def test_topics_given_are_remapped(given: dict[str, str], rules: list[tuple[str, str]]) -> None:
    assert list(settings(**given).remappings) == rules


@pytest.mark.parametrize(
    ('keys', 'applies'),
    [
        (['/**'], True),
        (['segmentation_node'], False),  # ROS takes it for a node of the root namespace
        (['/car/segmentation_node'], True),
        (['car', 'segmentation_node'], True),
        (['/*/segmentation_node'], True),
        (['/**/segmentation_node'], True),
        (['/**', 'car', 'other_node'], False),
    ],
)
def test_cameras_of_the_parameter_file_count(
    keys: list[str], applies: bool, tmp_path: Path
) -> None:
    content: Any = {'ros__parameters': {'cameras': ['front', 'rear'], 'max_rate_hz': 'wrong'}}
    for key in reversed(keys):
        content = {key: content}
    file = tmp_path / 'params.yaml'
    file.write_text(yaml.safe_dump(content))
    given = {'params_file': str(file), 'namespace': '/car'}
    found = settings(**given).nodes[0].parameters.cameras
    assert found == (['front', 'rear'] if applies else default('cameras'))
    if applies:
        with pytest.raises(SettingError, match='image_topic cannot be used with cameras'):
            settings(**given, image_topic='/image')
        assert settings(**given, cameras="['left']").nodes[0].parameters.cameras == ['left']


@pytest.mark.parametrize(
    'sections',
    [
        ['/car/segmentation_node', '/**'],
        ['/**', '/car/segmentation_node'],
        ['/car/segmentation_node', '/**', '/*/segmentation_node'],
    ],
)
def test_arguments_override_the_parameter_file(sections: list[str], tmp_path: Path) -> None:
    file, own = tmp_path / 'params.yaml', tmp_path / 'own.yaml'
    values = {'label_scheme': 'cityscapes8', 'device': 'cpu'}
    content = {section: {'ros__parameters': dict(values)} for section in sections}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    (node,) = settings(params_file=str(file), namespace='/car', device='1e3').nodes
    own.write_text(node.parameter_file(use_sim_time=False))
    names = ['-r', '__ns:=/car', '-r', '__node:=segmentation_node']
    files = ['--params-file', str(file), '--params-file', str(own)]
    os.environ.update(isolated_environment())
    context = rclpy.Context()
    context.init(args=['--ros-args', *names, *files], domain_id=DOMAIN_ID)
    try:
        found = rclpy.create_node(
            'any', context=context, automatically_declare_parameters_from_overrides=True
        )
        assert found.get_parameter('device').value == '1e3'
        assert found.get_parameter('use_sim_time').value is False
        assert found.get_parameter('label_scheme').value == 'cityscapes8'
    finally:
        context.try_shutdown()


COMPARED = {'left': 'unet', 'right': 'mask2former'}


@pytest.mark.parametrize(
    ('config', 'models', 'given', 'camera', 'outputs'),
    [
        ('segmentation', None, {}, ['/image'], ['/segmentation_node/{}']),
        (
            'segmentation', {'eye': ''}, {'namespace': '/car', 'image_topic': 'raw'},
            ['/car/raw'], ['/car/eye/{}'],
        ),
        (
            'segmentation', None, {'image_topic': '/raw', 'image_transport': 'compressed'},
            ['/raw/compressed'], ['/segmentation_node/{}'],
        ),
        (
            'segmentation', None, {'cameras': "['front', 'rear/left']"},
            ['/front/image', '/rear/left/image'],
            ['/segmentation_node/front/{}', '/segmentation_node/rear/left/{}'],
        ),
        ('compare', COMPARED, {}, ['/image'], ['/left/{}', '/right/{}']),
        (
            'compare', COMPARED, {'namespace': '/car', 'cameras': "['', 'b']"},
            ['/car/image', '/car/b/image'],
            ['/car/left/{}', '/car/right/{}', '/car/left/b/{}', '/car/right/b/{}'],
        ),
    ],
)  # fmt: skip
def test_rviz_shows_the_topics_that_there_are(
    config: str,
    models: dict[str, str] | None,
    given: dict[str, str],
    camera: list[str],
    outputs: list[str],
) -> None:
    text = with_topics(config_dir() / f'{config}.rviz', settings(models, **given))
    content = yaml.safe_load(text)
    displays = content['Visualization Manager']['Displays']
    shown = {d['Topic']['Value']: d['Topic']['Reliability Policy'] for d in displays}
    assert len(shown) == len(displays) == len({d['Name'] for d in displays})
    assert {name for name, policy in shown.items() if policy == 'Best Effort'} == set(camera)
    wanted = (topics.OVERLAY, topics.COLOR_MASK)
    masks = {pattern.format(output) for pattern in outputs for output in wanted}
    assert set(shown) == {*camera, *masks}
    if len(camera) == 1:
        assert {d['Name'] for d in displays} | {'Displays'} <= set(content['Window Geometry'])


def test_displays_of_other_topics_stay_as_they_are(tmp_path: Path) -> None:
    display = {'Class': 'rviz_default_plugins/PointCloud2', 'Topic': {'Value': '/points'}}
    grid = {'Class': 'rviz_default_plugins/Grid', 'Value': True}
    file = tmp_path / 'own.rviz'
    file.write_text(yaml.safe_dump({'Visualization Manager': {'Displays': [display, grid]}}))
    shown = yaml.safe_load(with_topics(file, settings(cameras="['a', 'b']")))
    assert shown['Visualization Manager']['Displays'] == [display, grid]
    file.write_text('Panels: []\n')
    assert with_topics(file, settings()) == 'Panels: []\n'


@pytest.mark.parametrize(
    'path',
    [*LAUNCH_FILES, *Path(arguments.__file__).parent.glob('*.py')],
    ids=lambda path: path.name,
)
def test_launch_file_repeats_no_default_of_the_node(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    values = [default(field.name) for field in fields(Parameters)]
    defaults = {value for value in values if isinstance(value, str) and value}
    assert defaults, 'the node declares no texts any more; this test has lost its object'
    assert not texts & defaults


def test_launch_files_need_no_library_of_the_virtual_environment() -> None:
    room = 'segmentation_node.ros.launching'
    light = [f'{room}.arguments', f'{room}.launch_settings', f'{room}.rviz']
    if find_spec('launch_ros'):
        light.append(f'{room}.startup')
    heavy = 'segmentation_node.runtimes.openvino_runtime'
    failed = import_without([*light, heavy], OF_THE_VENV)
    assert 'is blocked here' in failed.pop(heavy)
    assert failed == {}


# Whole launches

needs_launch = pytest.mark.skipif(
    not find_spec('launch_ros') or shutil.which('ros2') is None,
    reason='launch and ros2cli come with a ROS installation only, and are not on PyPI',
)


class Launch:
    """A real `ros2 launch`, with all processes that it starts."""

    def __init__(self, log: Path, *words: str, environment: dict[str, str] | None = None) -> None:
        self._mark = f'LAUNCH_TEST={log}'
        self._log = log
        variables = {**isolated_environment(), 'LAUNCH_TEST': str(log), 'PYTHONUNBUFFERED': '1'}
        with log.open('w') as stream:
            self._process = subprocess.Popen(
                ['ros2', 'launch', 'segmentation_node', *words],
                env={**variables, **(environment or {})},
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        """Return the printed text."""
        return self._log.read_text(encoding='utf-8')

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        return self._process.wait(PATIENCE_S)

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def processes(self, name: str = '') -> list[int]:
        """Return ids of its running processes, optionally with `name` in their command line."""
        found = []
        for folder in Path('/proc').glob('[0-9]*'):
            with suppress(OSError):  # it may have ended
                marked = self._mark.encode() in (folder / 'environ').read_bytes().split(b'\0')
                if marked and name.encode() in (folder / 'cmdline').read_bytes():
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        """Kill all processes."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        print(self.text())


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Any]:
    """Factory of launches; remaining processes are killed at the end."""
    launches: list[Launch] = []

    def start(*words: str, **kwargs: Any) -> Launch:
        launches.append(Launch(tmp_path / f'log{len(launches)}', *words, **kwargs))
        return launches[-1]

    yield start
    for each in launches:
        each.close()


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Bag with three images."""
    path = tmp_path / 'drive.mcap'
    topic = image_topic()
    with BagWriter(path) as writer:
        for index in range(3):
            writer.write(topic, stamp_ns(index), image_cdr(index))
    return path


@needs_launch
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc is asked what runs')
class TestWholeLaunch:
    def test_shows_its_arguments(self) -> None:
        for path, declared in zip(LAUNCH_FILES, (COMPARE, LABEL_CLOUD, SEG), strict=True):
            command = ['ros2', 'launch', 'segmentation_node', path.name, '--show-args']
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert re.findall(r"^    '(.+)':$", said, re.MULTILINE) == [a.name for a in declared]

    @pytest.mark.skipif(not find_spec('ros2bag'), reason='ros2bag is not installed')
    def test_plays_a_bag_once_the_node_is_active(self, launch: Any, bag: Path) -> None:
        played = launch('seg.launch.py', f'bag:={bag}', 'model:=unet')
        assert played.status() == 0
        text = played.text()
        active, player, ended = map(text.index, (
            'active, listening to /image', '[ros2-2]: process started', 'the bag has been played',
        ))  # fmt: skip
        assert active < player < ended
        assert played.processes() == []

    @pytest.mark.skipif(not find_spec('ros2bag'), reason='ros2bag is not installed')
    def test_ends_with_an_error_when_the_player_does(self, launch: Any, bag: Path) -> None:
        failed = launch(
            'seg.launch.py', f'bag:={bag}', 'model:=unet',
            'bag_arguments:=--no-such-option',
        )  # fmt: skip
        assert failed.status() == 1
        assert 'ending: the bag could not be played' in failed.text()
        assert failed.processes() == []

    @pytest.mark.skipif(not find_spec('ros2bag'), reason='ros2bag is not installed')
    @pytest.mark.parametrize('file', ['seg.launch.py', 'compare.launch.py'])
    def test_ends_with_an_error_when_a_model_cannot_be_loaded(
        self, launch: Any, bag: Path, file: str
    ) -> None:
        models = ['model:=/missing', 'other_model:=unet', 'rviz:=false']
        words = models[: 3 if file == 'compare.launch.py' else 1]
        refused = launch(file, f'bag:={bag}', *words)
        assert refused.status() == 1
        assert re.search(r'ending: \S+ is unconfigured: .*/missing', refused.text())
        assert refused.processes() == []

    def test_starts_nothing_where_rviz_is_not_installed(self, launch: Any) -> None:
        from ament_index_python.packages import get_package_prefix

        only_ours = {'AMENT_PREFIX_PATH': get_package_prefix('segmentation_node')}
        if Path(only_ours['AMENT_PREFIX_PATH'], 'lib', 'rviz2').is_dir():
            pytest.skip('rviz2 is installed into the folder of this package')
        refused = launch('seg.launch.py', 'rviz:=True', environment=only_ours)
        assert refused.status() == 1
        assert 'package rviz2 is not installed' in refused.text()
        assert 'process started' not in refused.text()

    def test_ends_with_an_error_when_one_of_its_nodes_dies(self, launch: Any) -> None:
        models = ['model:=unet', 'other_model:=unet']
        compared = launch('compare.launch.py', *models, 'rviz:=false')
        probe = Probe('')
        try:
            for name in ('left', 'right'):
                probe.target = f'/{name}'
                probe.wait_until_active()
        finally:
            probe.close()
        os.kill(compared.processes('__node:=left')[0], signal.SIGKILL)
        assert compared.status() == 1
        assert 'ending: the node has ended (status -9)' in compared.text()
        assert compared.processes() == []

    def test_starts_a_killed_node_again_with_its_parameters(self, launch: Any) -> None:
        launched = launch(
            'seg.launch.py', 'respawn:=true', 'model:=unet', 'min_confidence:=1',
            "cameras:=['front', 'b7']", 'namespace:=vehicle',
        )  # fmt: skip
        probe = Probe('vehicle')
        try:
            probe.wait_until_active()
            (killed,) = launched.processes('__node:=segmentation_node')
            os.kill(killed, signal.SIGKILL)
            probe.wait_for('its end', lambda: killed not in launched.processes('__node:='))
            probe.diagnostics.clear()
            probe.wait_until_active()
            request = GetParameters.Request(names=['min_confidence', 'cameras', 'model'])
            values = probe.call(GetParameters, 'get_parameters', request).values
        finally:
            probe.close()
        assert values[0].double_value == 1.0
        assert values[1].string_array_value == ['front', 'b7']
        assert values[2].string_value == 'unet'
        launched.interrupt()
        assert launched.status() == 0
        assert launched.processes() == []
