# SPDX-License-Identifier: Apache-2.0
"""Training of the networks; imports `segmentation_node` and is never imported by it."""
