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

#: Rooms and modules from the bottom to the top: each imports only from those above it here.
LAYERS = (
    'arrays', 'plotting', 'errors', 'atomic', 'paths', 'topics', 'interrupt', 'untrusted',
    'markdown', 'processes', 'labels', 'instances', 'metrics', 'scoring', 'images', 'networks',
    'checkpoint', 'runtimes', 'segmenter', 'cli', 'pipeline', 'cloud', 'ros', 'bags', 'folders',
    'fleet', 'demo', 'web', 'benchmark', 'export', 'entry',
)  # fmt: skip
#: Modules outside of ros/ that talk to ROS, each the reason why a command needs it.
TALK_TO_ROS = {
    'segmentation_node.bags.playable', 'segmentation_node.bags.player',
    'segmentation_node.bags.publisher_qos',
    'segmentation_node.bags.replay_bag', 'segmentation_node.bags.replay_node',
    'segmentation_node.benchmark.common_node',
    'segmentation_node.benchmark.image_publisher', 'segmentation_node.benchmark.mask_subscriber',
    'segmentation_node.demo.recorder', 'segmentation_node.web.live_view.ros_cameras',
}  # fmt: skip
#: Import torch or its libraries; everything else runs bundled models without them.
NEED_TORCH = {
    'segmentation_node.benchmark.common_model', 'segmentation_node.benchmark.common_node',
    'segmentation_node.networks.deformable_attention', 'segmentation_node.networks.graph',
    'segmentation_node.networks.local', 'segmentation_node.networks.mask2former',
    'segmentation_node.networks.mask2former_inference', 'segmentation_node.networks.network',
    'segmentation_node.networks.smp', 'segmentation_node.runtimes.conversion',
    'segmentation_node.runtimes.onnx_runtime', 'segmentation_node.runtimes.torch_runtime',
}  # fmt: skip


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
    """Dotted names that a file imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def packages_of(path: Path) -> set[str]:
    """Packages that a file imports from."""
    return {name.partition('.')[0] for name in imports_of(path)}


def module_of(path: Path) -> str:
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def in_ros_room(module: str) -> bool:
    return f'{module}.'.startswith('segmentation_node.ros.')


def test_the_walk_finds_the_modules() -> None:
    found = set(modules('segmentation_node'))
    assert {'segmentation_node.labels', 'segmentation_node.networks.smp'} <= found
    assert found >= TALK_TO_ROS | NEED_TORCH


def test_only_few_modules_outside_of_ros_need_ros() -> None:
    everything = [*modules('segmentation_node'), *modules('training')]
    failed = import_without(everything, ROS)
    assert 'is blocked here' in failed['segmentation_node.ros.node']
    assert {name for name in failed if not in_ros_room(name)} == TALK_TO_ROS


def test_what_runs_bundled_models_needs_no_torch() -> None:
    # Launch files need a ROS installation, whose packages may be missing here.
    light = [name for name in modules('segmentation_node') if '.launching' not in name]
    assert set(import_without(light, HEAVY)) == NEED_TORCH


def test_imports_run_one_way() -> None:
    for path in (ROOT / 'segmentation_node').rglob('*.py'):
        own = module_of(path).split('.')[1]
        if own == '__init__':
            continue
        below = {*LAYERS[: LAYERS.index(own)], own}
        for name in imports_of(path):
            parts = name.split('.')
            if parts[0] == 'segmentation_node' and parts[1:] not in ([], ['__version__']):
                assert parts[1] in below, f'{path} imports {name} from above'


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
    files = [*(ROOT / 'segmentation_node').rglob('*.py'), *(ROOT / 'training').rglob('*.py')]
    users = {module_of(path) for path in files if packages_of(path) & set(ROS)}
    assert 'segmentation_node.ros.node' in users
    assert {name for name in users if not in_ros_room(name)} == TALK_TO_ROS


def test_the_package_never_imports_its_training_or_its_tests() -> None:
    own = {path.stem for path in (ROOT / 'test').rglob('*.py')} | {'training', 'test'}
    for path in (ROOT / 'segmentation_node').rglob('*.py'):
        assert not packages_of(path) & own, path


def test_every_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for room in ('segmentation_node', 'training'):
        for path in (ROOT / room).rglob('*.py'):
            for name in _classes_of(ast.parse(path.read_text(encoding='utf-8'))):
                places.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    clashes = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert 'Segmenter' in places
    assert not clashes


def _classes_of(tree: ast.Module) -> list[str]:
    """Names of the public classes of a file."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_')
    ]
