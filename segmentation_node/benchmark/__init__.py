# SPDX-License-Identifier: Apache-2.0
"""How fast networks, segmenter and node are, measured side by side in one run.

- __main__: the command and its options. session: one run, in the order in which it goes.
- variants: which runtimes and precisions there are to measure.
- frames: what is shown to them. machine: what they run on.
- calls, worker: one variant as a process that is called; common_model is the one to compare with.
- streams: a node between a camera and a subscriber, all of them processes, over DDS; the ROS
  sides of these are in ros.benchmark.
- quality: what speed must not cost.
- timing: statistics and the order of turns.
- results: everything that was measured, as JSON. figures: what the samples come to.
- report, plot: pages and a picture of it.
"""
