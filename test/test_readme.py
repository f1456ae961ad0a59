# SPDX-License-Identifier: Apache-2.0
"""README.md says what is so: its tables, its files, its commands."""

import importlib.util
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from repository import ROOT

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from segmentation_node import entry, load_scheme, read_image
from segmentation_node.errors import SettingError
from segmentation_node.ros.launching.arguments import COMPARE, SEG
from segmentation_node.ros.parameters import Parameters
from segmentation_node.ros.reference import topic_rows, with_tables

README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGES = [ROOT / 'README.md', ROOT / 'training' / 'README.md']


def shell_lines() -> list[list[str]]:
    """Commands in the page's shell blocks, as words."""
    blocks = re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    parts = [part for line in lines for part in re.split(r'&&|;', line.partition('#')[0])]
    return [shlex.split(part) for part in parts if part.strip()]


LAUNCH_ARGUMENTS = {
    'seg.launch.py': {argument.name for argument in SEG},
    'compare.launch.py': {argument.name for argument in COMPARE},
}


def test_tables_are_those_of_the_code() -> None:
    assert with_tables(README) == README, 'run "make readme"'


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SettingError, match='0 places for the table of topics'):
        with_tables('# A page\n')


def test_parameter_table_names_every_parameter() -> None:
    for name in Parameters.__dataclass_fields__:
        assert f'\n| `{name}` |' in README


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r'\]\(([^)#:]+)\)', page.read_text(encoding='utf-8'))
    assert links
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_linked_sections_exist() -> None:
    titles = re.findall(r'^#+ (.+)$', README, re.MULTILINE)
    anchors = {re.sub(r'[^a-z0-9 _-]', '', title.lower()).replace(' ', '-') for title in titles}
    assert set(re.findall(r'\]\(#([^)]+)\)', README)) <= anchors


def test_picture_is_light_enough_for_a_page() -> None:
    pictures = re.findall(r'!\[[^]]+\]\(([^)]+)\)', README)
    assert pictures
    assert all((ROOT / picture).stat().st_size < 600_000 for picture in pictures)


def test_make_targets_exist() -> None:
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
    named = {
        word
        for line in shell_lines() if line[0] == 'make'
        for word in line[1:] if '=' not in word
    } | set(re.findall(r'make ([a-z-]+)', README))  # fmt: skip
    assert {'demo', 'test', 'lint'} <= named <= targets


def test_make_lists_its_targets() -> None:
    said = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {'demo', 'test', 'lint', 'clean'} <= set(re.findall(r'^  make ([a-z-]+)', said.stdout,
                                                               re.MULTILINE))  # fmt: skip


def test_ci_runs_by_itself() -> None:
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)


def test_commands_exist() -> None:
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    listed = setup.partition('for command in (')[2].partition(')')[0]
    scripts = set(re.findall(r"'(\w+)'", listed))
    ours = [line for line in shell_lines() if re.fullmatch(r'[a-z]+(_[a-z]+)+', line[0])]
    assert {line[0] for line in ours} <= scripts
    modules = [line[2] for line in shell_lines() if line[:2] == ['python', '-m']]
    assert modules
    assert all(importlib.util.find_spec(module) for module in modules)


@pytest.mark.parametrize(
    'line',
    [words for words in shell_lines() if words[0].endswith(('_bag', '_images'))],
    ids=' '.join,
)
def test_commands_know_their_options(line: list[str]) -> None:
    (name,) = getattr(entry, line[0]).args
    module = importlib.import_module(f'segmentation_node.{name}')
    module._parser().parse_args(line[1:])


def test_the_example_in_python_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    written = set(re.findall(r"'(\w+\.png)'", example))
    (picture,) = set(re.findall(r"'(\w+\.jpg)'", example))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path(picture).write_bytes((ROOT / 'resource' / 'readme' / 'street.jpg').read_bytes())
        exec(compile(example, 'README.md', 'exec'), {})  # noqa: S102 (our own page)
        image, overlay = (read_image(Path(name)) for name in (picture, *written))
    assert overlay.shape == image.shape
    shares = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(shares) == [c.name for c in load_scheme('cityscapes8').classes]
    assert sum(float(share.rstrip('%')) for share in shares.values()) == pytest.approx(100, abs=1)


def test_launch_lines_use_arguments_that_exist() -> None:
    lines = [line for line in shell_lines() if line[:2] == ['ros2', 'launch']]
    assert lines
    for line in lines:
        known = LAUNCH_ARGUMENTS[line[3]]
        assert {word.partition(':=')[0] for word in line[4:]} <= known


def test_topic_table_has_the_topics_of_a_node(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from ros_process import NodeProcess, Probe

    with NodeProcess(tmp_path / 'log', '-p', f'model:={tiny_checkpoint}'):
        probe = Probe()
        try:
            probe.wait_until_active()
            published = dict(
                probe.node.get_publisher_names_and_types_by_node(
                    'segmentation_node', probe.namespace
                )
            )
        finally:
            probe.close()
    ros_own = {'/rosout', '/parameter_events', f'{probe.target}/transition_event'}
    rows = {
        row.name.replace('~', probe.target): row.msgtype
        for row in topic_rows() if not row.meaning.startswith('in')
    }  # fmt: skip
    if importlib.util.find_spec('vision_msgs') is None:
        del rows[f'{probe.target}/label_info']
    found = {name: types[0].replace('/msg/', '/') for name, types in published.items()}
    assert {name: kind for name, kind in found.items() if name not in ros_own} == rows
