# SPDX-License-Identifier: Apache-2.0
"""The networks: families, their common face, and how a folder becomes one."""

from segmentation_node.models.families import FAMILIES, family_of_config, network_class
from segmentation_node.models.network import Network

__all__ = ['FAMILIES', 'Network', 'family_of_config', 'network_class']
