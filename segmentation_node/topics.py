# SPDX-License-Identifier: Apache-2.0
"""Topic names, each in one place.

The node uses them relative to its name space, offline tools as they resolve for a node of the
default name in the root name space: a bag written offline looks like one that was recorded.
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
LABEL_INFO: Final = 'label_info'
LABEL_INFO_JSON: Final = 'label_info_json'

DIAGNOSTICS: Final = '/diagnostics'
GROUND_TRUTH: Final = '/ground_truth'


def resolved(output: str) -> str:
    """Absolute name of one of the node's private topics under its default name."""
    return f'/{NODE_NAME}/{output}'
