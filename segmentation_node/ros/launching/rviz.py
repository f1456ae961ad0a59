# SPDX-License-Identifier: Apache-2.0
"""RViz configuration with the topics that result from the launch arguments.

Remapping does not apply to the topics in an RViz configuration, so they are replaced in the file.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from segmentation_node.ros.launching.launch_settings import LaunchSettings
from segmentation_node.topics import COMPRESSED_SUFFIX, IMAGE, NODE_NAME
from segmentation_node.untrusted import read_yaml


def with_topics(path: Path, settings: LaunchSettings) -> str:
    """Return an RViz configuration with the topics of the settings.

    In the file, `/image` stands for the camera, `/segmentation_node/...` for outputs of the only
    node, and `/NAME/...` for outputs of the node with that name. A display of such a topic is
    repeated for each camera.

    Raises:
        ForeignError: the file cannot be read.
    """
    content = read_yaml(path)
    manager = content.get('Visualization Manager') if isinstance(content, dict) else None
    if not isinstance(manager, dict) or not isinstance(manager.get('Displays'), list):
        return path.read_text(encoding='utf-8')
    cameras = settings.nodes[0].parameters.cameras
    manager['Displays'] = [
        shown for display in manager['Displays'] for shown in _displays(display, settings)
    ]
    geometry = content.get('Window Geometry')
    if len(cameras) > 1 and isinstance(geometry, dict):
        # It arranges panels by names that have changed.
        geometry.pop('QMainWindow State', None)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _displays(display: Any, settings: LaunchSettings) -> Iterator[Any]:
    cameras = settings.nodes[0].parameters.cameras
    topic = display.get('Topic') if isinstance(display, dict) else None
    template = topic.get('Value') if isinstance(topic, dict) else None
    topics_ = [_topic(str(template), camera, settings) for camera in cameras]
    if not all(topics_):
        yield display
        return
    for camera, name in zip(cameras, topics_, strict=True):
        shown = deepcopy(display)
        shown['Topic']['Value'] = name
        if len(cameras) > 1:
            shown['Name'] = f'{camera or "(no prefix)"}: {shown.get("Name", "")}'
        yield shown


def _topic(template: str, camera: str, settings: LaunchSettings) -> str:
    """Return the topic that a name in the file stands for; '' for other topics."""
    first, _, output = template.removeprefix('/').partition('/')
    node = next((n for n in settings.nodes if first in (n.name, NODE_NAME)), settings.nodes[0])
    root, prefix = node.full_name.rpartition('/')[0], f'{camera}/' if camera else ''
    if template == f'/{IMAGE}':
        topic = settings.image_topic or prefix + IMAGE
        suffix = COMPRESSED_SUFFIX if node.parameters.image_transport == 'compressed' else ''
        return (topic if topic.startswith('/') else f'{root}/{topic}') + suffix
    if template.startswith('/') and first in (node.name, NODE_NAME):
        return f'{node.full_name}/{prefix}{output}'
    return ''
