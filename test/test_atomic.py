# SPDX-License-Identifier: Apache-2.0
"""Tests of atomic replacement: the old content stays until the new one is complete."""

from pathlib import Path

import pytest

from segmentation_node.atomic import replacing, replacing_folder, restore_folder


@pytest.mark.parametrize('shared', [False, True])
def test_file_is_replaced_only_when_it_is_complete(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / 'file.txt'
    for text in ('old', 'new'):
        with replacing(path, shared=shared) as aside:
            aside.write_text(text, encoding='utf-8')
            assert path.exists() == (text == 'new')
        assert path.read_text(encoding='utf-8') == text
    with pytest.raises(TypeError), replacing(path, shared=shared) as aside:
        aside.open('w').write(b'bytes')  # type: ignore[arg-type]
    assert path.read_text(encoding='utf-8') == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_several_writers_do_not_write_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    with replacing(path, shared=True) as one, replacing(path, shared=True) as other:
        one.write_text('one', encoding='utf-8')
        other.write_text('other', encoding='utf-8')
    assert path.read_text(encoding='utf-8') == 'one'  # its context ends last


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / 'deep' / 'folder'
    for name in ('old', 'new'):
        with replacing_folder(folder) as aside:
            (aside / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(FileNotFoundError), replacing_folder(folder) as aside:
        (aside / 'missing').rename('elsewhere')
    assert [path.name for path in folder.iterdir()] == ['new']
    assert list(folder.parent.iterdir()) == [folder]


def test_folder_hidden_by_a_kill_is_brought_back(tmp_path: Path) -> None:
    folder = tmp_path / 'folder'
    (tmp_path / '.folder.old').mkdir()
    (tmp_path / '.folder.new').mkdir()
    restore_folder(folder)
    assert folder.is_dir()
    with replacing_folder(folder):
        pass
    assert list(tmp_path.iterdir()) == [folder]
