# SPDX-License-Identifier: Apache-2.0
"""The node label_cloud: depth and label masks in, labeled point clouds out."""
