# SPDX-License-Identifier: Apache-2.0
"""Benchmark: speed of networks, segmenter and node, measured side by side in one run.

- __main__: the command and its options. run: the steps of one run.
- variants: runtimes and precisions to measure.
- input_frames: input frames.
- calls, variant_process: one variant as a process that executes calls. common_model: the baseline.
- stream_processes: a node between a camera (image_publisher) and a subscriber (mask_subscriber),
  all separate processes, over DDS. common_node: the baseline as a node.
- quality: accuracy of the labels of each variant.
- timing: statistics and the order of measurements.
- measurements: all results, as JSON. figures: statistics of the measurements.
- report, plot: pages and charts of a run.
"""
