# SPDX-License-Identifier: Apache-2.0
"""The network as a graph of its own, for other runtimes, let through only if its labels agree."""
