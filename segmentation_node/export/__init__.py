# SPDX-License-Identifier: Apache-2.0
"""Export of networks as graph files for other runtimes, with a gate on the quality of labels."""
