# SPDX-License-Identifier: Apache-2.0
"""Tests of the measurement of the data loader."""

import re
from pathlib import Path

import pytest
from training_data import write_experiment, write_folders

from training.loading import main


def test_loader_is_measured_against_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (('train', 4), ('val', 1)):
        write_folders(tmp_path / 'streets', split, count)
    config = write_experiment(tmp_path / 'experiment.yaml', tmp_path)
    assert main([str(config), '--turns', '1', '--steps', '2']) == 0
    head, loader, memory, wait = capsys.readouterr().out.splitlines()
    assert head.startswith('deeplabv3plus, batch 2, 0 workers; ')
    for line, name in ((loader, 'loader'), (memory, 'memory')):
        assert re.fullmatch(rf'{name}: [\d.]+ images/s \([\d.]+ to [\d.]+ over 1 turns\)', line)
    assert 0 < float(wait.removeprefix('waiting for data: ').partition(' %')[0]) < 100


def test_nothing_to_measure_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['experiment.yaml', '--turns', '0'])
    assert "'0' is not a number from 1 on" in capsys.readouterr().err
