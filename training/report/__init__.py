# SPDX-License-Identifier: Apache-2.0
"""Report of `training.compare`: tracked runs on one self-contained HTML page."""
