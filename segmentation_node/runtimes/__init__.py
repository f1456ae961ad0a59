# SPDX-License-Identifier: Apache-2.0
"""What runs a network: pixels of a batch in, a decision for each image out."""

from segmentation_node.runtimes.measured_runtime import MeasuredRuntime
from segmentation_node.runtimes.opening import RUNTIMES, TORCH_RUNTIMES, open_runtime
from segmentation_node.runtimes.runtime import Runtime

__all__ = ['RUNTIMES', 'TORCH_RUNTIMES', 'MeasuredRuntime', 'Runtime', 'open_runtime']
