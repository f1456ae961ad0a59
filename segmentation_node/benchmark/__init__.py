# SPDX-License-Identifier: Apache-2.0
"""Benchmark: speed of networks, segmenter and node, measured side by side in one run.

- __main__: the command and its options. session: the steps of one run.
- variants: runtimes and precisions to measure.
- frames: input images.
- calls, worker: one variant as a process that executes calls. common_model: the baseline.
- streams: a node between a camera and a subscriber, all separate processes, over DDS; the ROS
  parts of these are in ros.benchmark.
- quality: accuracy of the labels of each variant.
- timing: statistics and the order of measurements.
- results: all measurements, as JSON. figures: statistics of the measurements.
- report, plot: pages and charts of a run.
"""
