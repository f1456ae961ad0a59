# SPDX-License-Identifier: Apache-2.0
"""Topic names.

The node uses them relative to its namespace. Offline tools use them as a node with the default
name in the root namespace does, so that a bag written offline looks like a recorded one.
"""

from typing import Final

NODE_NAME: Final = 'segmentation_node'

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

DIAGNOSTICS: Final = '/diagnostics'
GROUND_TRUTH: Final = '/ground_truth'


def resolved(output: str) -> str:
    """Return the absolute name of a private topic of a node with the default name."""
    return f'/{NODE_NAME}/{output}'
