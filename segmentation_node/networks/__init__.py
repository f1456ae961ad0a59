# SPDX-License-Identifier: Apache-2.0
"""Networks: the model families, their common interface, and loading from a folder."""

from segmentation_node.networks.families import FAMILIES, family_of_config, network_class

__all__ = ['FAMILIES', 'family_of_config', 'network_class']
