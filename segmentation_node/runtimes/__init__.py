# SPDX-License-Identifier: Apache-2.0
"""What runs a network: pixels of a batch in, a decision for each image out."""

from segmentation_node.runtimes.measured_runtime import MeasuredRuntime
from segmentation_node.runtimes.opening import RUNTIMES, open_runtime
from segmentation_node.runtimes.runtime import Runtime

__all__ = ['RUNTIMES', 'MeasuredRuntime', 'Runtime', 'open_runtime']
