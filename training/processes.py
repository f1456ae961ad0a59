# SPDX-License-Identifier: Apache-2.0
"""Processes of a run that is shared by several devices or machines."""

import os


def is_first_process() -> bool:
    """Return whether this process has global rank 0, by the environment that started it.

    Lightning knows the rank only after its Trainer is built. torchrun sets RANK, which may differ
    from the order of SLURM's tasks; otherwise SLURM or the user number the machines, and Lightning
    the processes of a machine.
    """
    if 'RANK' in os.environ:
        return os.environ['RANK'] == '0'
    names = ('SLURM_PROCID', 'NODE_RANK', 'LOCAL_RANK')
    return all(os.environ.get(name, '0') == '0' for name in names)
