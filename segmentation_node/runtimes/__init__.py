# SPDX-License-Identifier: Apache-2.0
"""What runs a network: pixels of a batch in, a decision for each image out."""

from segmentation_node.runtimes.runtime import RUNTIMES, Runtime, open_runtime

__all__ = ['RUNTIMES', 'Runtime', 'open_runtime']
