# SPDX-License-Identifier: Apache-2.0
"""Training of the networks; imports the package, is never imported by it."""
