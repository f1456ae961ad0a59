# SPDX-License-Identifier: Apache-2.0
"""Demo: a camera stream through the real node, recorded, drawn and scored."""
