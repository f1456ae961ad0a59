# SPDX-License-Identifier: Apache-2.0
"""Commands for folders of images: segment them, and score their labels."""
