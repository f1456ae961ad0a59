# SPDX-License-Identifier: Apache-2.0
"""The networks: families, their common face, and how a folder becomes one."""

from segmentation_node.models.families import FAMILIES, family_of_config, network_class

__all__ = ['FAMILIES', 'family_of_config', 'network_class']
