# SPDX-License-Identifier: Apache-2.0
"""Parameters from files and the command line, parsed by ROS itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.node import Node
from ros_process import DOMAIN_ID, NodeProcess, Probe, isolated_environment

from segmentation_node.errors import SettingError
from segmentation_node.ros.parameter_files import ignored_file_warnings
from segmentation_node.ros.parameters import (
    Parameters,
    declare_parameters,
    unknown_parameters_warning,
)


@pytest.fixture(scope='module')
def context() -> Iterator[rclpy.Context]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in isolated_environment().items():
            patch.setenv(name, value)
        context = rclpy.Context()
        context.init(domain_id=DOMAIN_ID)
        yield context
        context.try_shutdown()


@pytest.fixture
def node_with(context: rclpy.Context, tmp_path: Path) -> Iterator[Any]:
    """Factory of nodes with a line in their parameter file and more on the command line."""
    nodes: list[Node] = []

    def make(text: str = '', *arguments: str) -> Node:
        path = tmp_path / 'parameters.yaml'
        path.write_text(f'/**:\n  ros__parameters:\n    precision: auto\n    {text}\n')
        args = ['--ros-args', '--params-file', str(path), *arguments]
        nodes.append(rclpy.create_node('node', context=context, cli_args=args))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def declared(node: Node) -> Parameters:
    return declare_parameters(node, node._parameter_overrides, Parameters)


@pytest.mark.parametrize(
    ('text', 'name', 'value'),
    [
        ('max_rate_hz: 10', 'max_rate_hz', 10.0),
        ('min_confidence: 1', 'min_confidence', 1.0),
        ('overlay_alpha: 0', 'overlay_alpha', 0.0),
        ('max_rate_hz: 2.5', 'max_rate_hz', 2.5),
        ('bits_per_sample: 12', 'bits_per_sample', 12),
        ('cameras: [front, rear]', 'cameras', ['front', 'rear']),
        ('input_size: [512, 1024]', 'input_size', [512, 1024]),
        ("model: 'unet'", 'model', 'unet'),
    ],
)
def test_values_of_files(node_with: Any, text: str, name: str, value: object) -> None:
    node = node_with(text)
    found = getattr(declared(node), name)
    assert found == value
    assert type(found) is type(value)
    held = node.get_parameter(name).value
    assert (list(held) if isinstance(value, list) else held) == value


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('cameras: []', r'cameras is \[\]; give one or more'),
        ('input_size: []', r'input_size is \[\]; give \[height, width\]'),
        ('image_size: []', r'image_size is \[\]; give \[height, width\]'),
        ('model: []', r"model is \[\]; expected a string, such as the default 'deeplabv3plus'"),
        ('cameras: front', r"cameras is 'front'; expected a list of strings, such as .* \[''\]"),
        ('input_size: [512.0, 1024.0]', r'input_size is .*512.0.*; expected a list of integers'),
        ("autostart: 'true'", "autostart is 'true'; expected true or false"),
        ('max_image_pixels: 1.0e6', 'max_image_pixels is 1000000.0; expected an integer'),
        ('max_rate_hz: fast', "max_rate_hz is 'fast'; expected a number"),
        ('model: 3', 'model is 3; expected a string'),
    ],
)
def test_values_of_another_kind_are_refused_before_anything_is_declared(
    node_with: Any, text: str, says: str
) -> None:
    name, _, value = text.partition(': ')
    nodes = [node_with(text)]
    if "'" not in value:  # of which the command line takes another view
        nodes.append(node_with('', '-p', f'{name}:={value}'))
    for node in nodes:
        with pytest.raises(SettingError, match=says):
            declared(node)
        assert not node.has_parameter('model')


def test_unknown_names_are_told_of_with_what_was_meant(node_with: Any) -> None:
    node = node_with('modle: unet', '-p', 'max_rate:=3', '-p', 'zzz.y:=1', '-p', 'model:=unet')
    declared(node)
    said = unknown_parameters_warning(node._parameter_overrides, Parameters)
    assert said.startswith(
        "ignored 3 unknown parameters: 'max_rate' (did you mean max_rate_hz?), "
        "'modle' (did you mean model?), 'zzz.y'; known are model, runtime, "
    )


def test_parameters_of_ros_are_known(node_with: Any) -> None:
    node = node_with(
        'use_sim_time: false', '-p', 'qos_overrides./image.subscription.depth:=3',
        '-p', 'start_type_description_service:=false',
    )  # fmt: skip
    assert unknown_parameters_warning(node._parameter_overrides, Parameters) == ''


def test_an_endless_list_of_unknown_names_is_cut_short() -> None:
    names = (f'{"x" * 1000}{n}' for n in range(1000))
    assert len(unknown_parameters_warning(names, Parameters)) < 2000


NAME = '/robot/segmentation_node'


@pytest.mark.parametrize(
    ('section', 'heard'),
    [
        ('/**', True), ('/*/segmentation_node', True), ('/robot/*', True), (NAME, True),
        ('/**/segmentation_node', True), ('robot/segmentation_node', True),
        ('segmentation_node', False), ('/segmentation_node', False), ('segmentation', False),
        ('/*', False), ('/other/**', False),
    ],
)  # fmt: skip
def test_a_file_without_a_section_for_the_node_is_told_of(
    tmp_path: Path, section: str, heard: bool, context: rclpy.Context
) -> None:
    path = tmp_path / 'file.yaml'
    path.write_text(f'{section}:\n  ros__parameters:\n    model: unet\n')
    args = ['x', '--ros-args', '--params-file', str(path), '--', '--params-file', 'none.yaml']
    # What is heard is up to ROS.
    ros_args = [*args[1:4], '-r', '__ns:=/robot']
    node = rclpy.create_node('segmentation_node', context=context, cli_args=ros_args)
    assert ('model' in node._parameter_overrides) == heard
    node.destroy_node()
    warnings = ignored_file_warnings(args, NAME)
    if heard:
        assert not warnings
    else:
        assert len(warnings) == 1
        assert f'file.yaml has no parameters for {NAME}, only for ' in warnings[0]
        assert warnings[0].endswith(f'rename the section to {NAME} or /**')


def test_namespaces_in_a_file_may_be_nested(tmp_path: Path) -> None:
    path = tmp_path / 'file.yaml'
    path.write_text('robot:\n  segmentation_node:\n    ros__parameters:\n      model: unet\n')
    assert not ignored_file_warnings(['--ros-args', '--params-file', str(path)], NAME)


def test_a_node_tells_of_what_it_ignores_and_takes_integers(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'other.yaml'
    path.write_text('segmentation_nod:\n  ros__parameters:\n    model: unet\n')
    arguments = ['-p', f'model:={tiny_checkpoint}', '-p', 'modle:=unet', '-p', 'max_rate_hz:=30']
    with NodeProcess(
        tmp_path / 'log.txt', *arguments, '--params-file', str(path), namespace='params'
    ) as node:
        probe = Probe('params')
        probe.wait_until_active()
        said = node.log_text()
        assert "'modle' (did you mean model?)" in said
        assert 'no parameters for /params/segmentation_node, only for' in said
        assert probe.set_parameter('min_confidence', 1).successful
        assert probe.set_parameter('max_rate_hz', 5).successful
        assert node.interrupt() == 0
        probe.close()
