# SPDX-License-Identifier: Apache-2.0
"""What `training.compare` writes: tracked runs as one page that needs nothing else."""
