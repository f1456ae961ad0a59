# SPDX-License-Identifier: Apache-2.0
"""Segmentation of many bags by the workers of a Ray cluster."""
