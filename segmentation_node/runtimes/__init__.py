# SPDX-License-Identifier: Apache-2.0
"""Runtimes: run a network on the pixels of a batch and return a segmentation for each image."""

from segmentation_node.runtimes.measured_runtime import MeasuredRuntime
from segmentation_node.runtimes.opening import RUNTIMES, TORCH_RUNTIMES, open_runtime
from segmentation_node.runtimes.runtime import Runtime

__all__ = ['RUNTIMES', 'TORCH_RUNTIMES', 'MeasuredRuntime', 'Runtime', 'open_runtime']
