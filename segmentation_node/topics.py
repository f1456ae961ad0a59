# SPDX-License-Identifier: Apache-2.0
"""Topic names.

The node uses them relative to its namespace. Offline tools use them as a node with the default
name in the root namespace does, so that a bag written offline looks like a recorded one.
"""

from typing import Final

NODE_NAME: Final = 'segmentation_node'
CLOUD_NODE_NAME: Final = 'label_cloud'

IMAGE: Final = 'image'
CAMERA_INFO: Final = 'camera_info'
COMPRESSED_SUFFIX: Final = '/compressed'

LABEL_MASK: Final = 'label_mask'
COLOR_MASK: Final = 'color_mask'
OVERLAY: Final = 'overlay'
CONFIDENCE: Final = 'confidence'
INSTANCE_MASK: Final = 'instance_mask'
DETECTIONS: Final = 'detections'
#: Outputs of models that have instances.
OF_INSTANCES: Final = (INSTANCE_MASK, DETECTIONS)
LABEL_INFO: Final = 'label_info'
LABEL_INFO_JSON: Final = 'label_info_json'
SCORES: Final = 'scores'

#: Inputs and output of the node label_cloud.
DEPTH: Final = 'depth'
CLOUD: Final = 'cloud'
POINTS: Final = 'points'

DIAGNOSTICS: Final = '/diagnostics'
GROUND_TRUTH: Final = '/ground_truth'


def resolved(output: str) -> str:
    """Return the absolute name of a private topic of a node with the default name."""
    return f'/{NODE_NAME}/{output}'


def label_info_beside(label_topic: str) -> str:
    """Return the topic that describes the labels of a label mask topic, in the same namespace."""
    return f'{label_topic.rpartition("/")[0]}/{LABEL_INFO_JSON}'
