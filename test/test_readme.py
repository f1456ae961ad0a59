# SPDX-License-Identifier: Apache-2.0
"""Tests of the generated tables and the launch commands in README.md and the manual."""

import importlib.util
import re
from pathlib import Path

import pytest
from repository import ROOT

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from reference_tables import PAGES, topic_rows, with_figures, with_tables
from test_docs import shell_lines, text_of

from segmentation_node.errors import SettingError
from segmentation_node.ros.launching.arguments import COMPARE, LABEL_CLOUD, SEG
from segmentation_node.ros.parameters import Parameters

LAUNCH_ARGUMENTS = {
    'seg.launch.py': {argument.name for argument in SEG},
    'compare.launch.py': {argument.name for argument in COMPARE},
    'label_cloud.launch.py': {argument.name for argument in LABEL_CLOUD},
}


@pytest.mark.parametrize('page', PAGES)
def test_tables_are_those_of_the_code(page: str) -> None:
    text = text_of(page)
    assert with_tables(text, PAGES[page]) == text, 'run "python docs/reference_tables.py"'


def test_every_generated_table_is_updated() -> None:
    """A marker in a page belongs to a table that a script writes there."""
    others = {
        'README.md': ['speed-summary'], 'docs/benchmark.md': ['speed'],
        'docs/getting-started.md': ['figures'],
    }  # fmt: skip
    for path in (ROOT / 'README.md', *ROOT.glob('docs/*.md')):
        page = path.relative_to(ROOT).as_posix()
        marked = re.findall(r'^<!-- end of (.+) -->$', text_of(page), re.MULTILINE)
        assert sorted(marked) == sorted([*PAGES.get(page, ()), *others.get(page, ())]), page


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SettingError, match='0 places for the table of topics'):
        with_tables('# A page\n', ['topics'])


def test_figures_of_the_demo_replace_those_before() -> None:
    page = text_of('docs', 'getting-started.md')
    changed = with_figures(page, '  mIoU  100 %\n')
    assert changed.count('```text\n  mIoU  100 %\n```\n<!-- end of figures -->') == 1


def test_parameter_table_names_every_parameter() -> None:
    for name in Parameters.__dataclass_fields__:
        assert f'\n| `{name}` |' in text_of('docs', 'ros-interface.md')


def test_launch_lines_use_arguments_that_exist() -> None:
    lines = [line for line in shell_lines() if line[:2] == ['ros2', 'launch']]
    assert lines
    for line in lines:
        known = LAUNCH_ARGUMENTS[line[3]]
        assert {word.partition(':=')[0] for word in line[4:]} <= known


def test_topic_table_has_the_topics_of_a_node(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from ros_process import NodeProcess, Probe

    with NodeProcess(tmp_path / 'log', '-p', f'model:={tiny_checkpoint}', namespace='vehicle'):
        probe = Probe('vehicle')
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
        for row in topic_rows() if row.name.startswith(('~', '/'))
    }  # fmt: skip
    if importlib.util.find_spec('vision_msgs') is None:
        del rows[f'{probe.target}/label_info'], rows[f'{probe.target}/detections']
    found = {name: types[0].replace('/msg/', '/') for name, types in published.items()}
    assert {name: kind for name, kind in found.items() if name not in ros_own} == rows
