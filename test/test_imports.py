# SPDX-License-Identifier: Apache-2.0
"""Tests of the imports: only some modules may import ROS, and only some torch."""

import ast
import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

from repository import ROOT

import segmentation_node

#: Packages of ROS 2; whoever imports one of these cannot be imported where there is no ROS.
ROS = (
    'action_msgs', 'ament_index_python', 'builtin_interfaces', 'composition_interfaces',
    'cv_bridge', 'diagnostic_msgs', 'geometry_msgs', 'image_transport', 'launch', 'launch_ros',
    'lifecycle_msgs', 'message_filters', 'rcl_interfaces', 'rclpy', 'ros2cli', 'rosbag2_py',
    'rosgraph_msgs', 'rosidl_parser', 'rosidl_runtime_py', 'rpyutils', 'sensor_msgs',
    'sensor_msgs_py', 'service_msgs', 'std_msgs', 'std_srvs', 'tf2_ros',
    'type_description_interfaces', 'unique_identifier_msgs', 'vision_msgs',
)  # fmt: skip
#: What the core does not require.
HEAVY = (
    'torch', 'torchvision', 'transformers', 'segmentation_models_pytorch', 'huggingface_hub',
    'timm', 'scipy', 'safetensors', 'onnxruntime', 'nncf',
)  # fmt: skip

#: Run bundled models, or answer before any network is needed.
LIGHT = (
    'checkpoint', 'choices', 'cli', 'codec', 'decision', 'errors', 'frames', 'geometry',
    'image_files', 'labels', 'metrics', 'outputs', 'paths', 'rendering', 'runtimes', 'scoring',
    'segmenter', 'topics', 'transport',
)  # fmt: skip
#: In rooms that need none but for this.
HOLDS_A_NETWORK = ('segmentation_node.benchmark.common_model',)


def modules(package: str) -> list[str]:
    """All modules of a package, found without importing any of them."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = [package]
    for info in pkgutil.iter_modules(spec.submodule_search_locations):
        name = f'{package}.{info.name}'
        found += modules(name) if info.ispkg else [name]
    return found


def in_ros_room(module: str) -> bool:
    return f'{module}.'.startswith('segmentation_node.ros.')


OUTSIDE = [name for name in modules('segmentation_node') if not in_ros_room(name)]

IMPORT_WITHOUT = """
import importlib, importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def __init__(self, names):
        self.names = set(names)
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            raise ImportError(f'{name} is blocked here')

names, blocked = json.loads(sys.argv[1])
sys.meta_path.insert(0, Blocker(blocked))
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def import_without(names: list[str], blocked: tuple[str, ...]) -> dict[str, str]:
    """Import modules in a new process without some packages; the errors by module."""
    done = subprocess.run(
        [sys.executable, '-c', IMPORT_WITHOUT, json.dumps([names, blocked])],
        capture_output=True, text=True, timeout=600, check=True, cwd=ROOT,
    )  # fmt: skip
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def imports_of(path: Path) -> set[str]:
    """Packages that a file imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition('.')[0])
    return found


def test_the_walk_finds_the_modules() -> None:
    assert {'segmentation_node.labels', 'segmentation_node.networks.smp'} <= set(OUTSIDE)
    assert 'segmentation_node.ros.node' in modules('segmentation_node')
    assert 'segmentation_node.ros.node' not in OUTSIDE


def test_only_the_ros_room_imports_ros() -> None:
    failed = import_without([*OUTSIDE, *modules('training'), 'segmentation_node.ros.node'], ROS)
    # The node fails, which proves that the block holds.
    assert 'is blocked here' in failed.pop('segmentation_node.ros.node')
    assert failed == {}


def test_what_runs_bundled_models_needs_no_torch() -> None:
    light = [f'segmentation_node.{name}' for name in LIGHT]
    rooms = tuple(
        f'segmentation_node.{room}'
        for room in ('bags', 'benchmark', 'demo', 'images', 'scenes', 'web')
    )
    light += [name for name in OUTSIDE if name.startswith(rooms) and name not in HOLDS_A_NETWORK]
    light += ['segmentation_node.runtimes.openvino_runtime', 'segmentation_node.ros.node']
    failed = import_without([*light, 'segmentation_node.networks.graph'], HEAVY)
    assert 'is blocked here' in failed.pop('segmentation_node.networks.graph')
    assert failed == {}


def test_the_package_itself_imports_nothing_that_takes_time() -> None:
    says = 'import segmentation_node, sys; print(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', says], capture_output=True, text=True, check=True, cwd=ROOT
    )
    imported = {name.partition('.')[0] for name in done.stdout.split()}
    assert 'segmentation_node' in imported
    assert not imported & {'cv2', 'numpy', 'openvino', 'yaml', *HEAVY}


def test_what_the_package_offers_is_there() -> None:
    from segmentation_node import Segmenter, load_scheme, read_image
    from segmentation_node.images.files import read_image as read
    from segmentation_node.labels import load_scheme as load
    from segmentation_node.segmenter import Segmenter as Class

    assert (Segmenter, load_scheme, read_image) == (Class, load, read)
    assert {'Segmenter', 'load_scheme', 'read_image'} <= set(dir(segmentation_node))
    assert not hasattr(segmentation_node, 'Segmentor')


def test_no_function_imports_ros_either() -> None:
    package = ROOT / 'segmentation_node'
    imported = {
        path.relative_to(ROOT).as_posix(): imports_of(path) & set(ROS)
        for path in [*package.rglob('*.py'), *(ROOT / 'training').rglob('*.py')]
    }
    users = {path for path, found in imported.items() if found}
    assert 'segmentation_node/ros/node.py' in users
    assert not [path for path in users if not path.startswith('segmentation_node/ros/')]


def test_the_package_never_imports_its_training_or_its_tests() -> None:
    own = {path.stem for path in (ROOT / 'test').glob('*.py')} | {'training', 'test'}
    for path in (ROOT / 'segmentation_node').rglob('*.py'):
        assert not imports_of(path) & own, path
