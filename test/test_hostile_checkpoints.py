# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of strangers: each is loaded or refused, soon, in little memory, and alone."""

from itertools import islice
from pathlib import Path

import hostile_checkpoints
import pytest
import torch

from segmentation_node.checkpoint import load_checkpoint

MOST_SECONDS, MOST_MEGABYTES = 5.0, 500.0
#: Every fourth of some 700 kinds here; all of them take a minute and a half.
STEP = 4


@pytest.mark.skipif(not Path('/proc/self/statm').is_file(), reason='memory is read from /proc')
def test_whatever_a_checkpoint_says(
    tiny_checkpoint: Path, tiny_mask2former: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that is forked has no others
    for folder in (tiny_checkpoint, tiny_mask2former):
        load_checkpoint(str(folder))  # imports all that it takes
    wrong, count = [], 0
    kinds = hostile_checkpoints.kinds(tiny_checkpoint, tiny_mask2former)
    for name, folder, change in islice(kinds, 0, None, STEP):
        outcome = hostile_checkpoints.load(folder, change, tmp_path)
        count += 1
        # Processor time of a busy machine may be half of what the clock says.
        if (
            not outcome.known
            or outcome.looked_up
            or outcome.seconds > 2 * MOST_SECONDS
            or outcome.megabytes > MOST_MEGABYTES
        ):
            wrong.append(f'{name[:80]!r}: {outcome}')
    torch.set_num_threads(threads)
    assert count >= 150
    assert not wrong, f'{len(wrong)} of {count}:\n' + '\n'.join(wrong)
