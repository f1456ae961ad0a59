# SPDX-License-Identifier: Apache-2.0
"""Command that writes the generated tables into README.md and the manual.

The tables of launch arguments, parameters, topics and models come from the code and from the
bundled checkpoints. With --figures, it also writes the figures of a run of the demo.

A table stands between the lines `<!-- NAME: ... -->` and `<!-- end of NAME -->`.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

from segmentation_node import markdown, topics
from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models, find_checkpoint, locate
from segmentation_node.cloud.points import FIELDS
from segmentation_node.errors import SettingError
from segmentation_node.images import encodings
from segmentation_node.pipeline.outputs import DETECTIONS, OUTPUTS, Output
from segmentation_node.ros.camera_subscription import DEPTH
from segmentation_node.ros.intake import CAMERA_INFO_QOS
from segmentation_node.ros.label_cloud import intake
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.launching.arguments import NODE_PARAMETERS, SEG
from segmentation_node.ros.parameters import Parameters, ParameterSet
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS, LATCHED_QOS, MASK_QOS
from segmentation_node.runtimes.graph_files import GRAPHS_DIR, GraphInfo, info_file

IMAGE: Final = 'sensor_msgs/Image'
COMPRESSED_IMAGE: Final = 'sensor_msgs/CompressedImage'
CAMERA_INFO: Final = 'sensor_msgs/CameraInfo'
POINT_CLOUD: Final = 'sensor_msgs/PointCloud2'

ROOT: Final = Path(__file__).resolve().parents[1]
# training/ is run from the source tree and not installed.
sys.path.append(str(ROOT))
from training.robustness_results import find_result, percent, published_folders  # noqa: E402

#: Page with the figures of the demo.
FIGURES_PAGE: Final = 'docs/getting-started.md'

#: Contents of the pictures; the rest of their rows comes from the code.
PICTURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        topics.LABEL_MASK: 'class id of each pixel',
        topics.COLOR_MASK: 'labels in the colors of their scheme',
        topics.OVERLAY: 'colors over the camera image',
        topics.CONFIDENCE: 'confidence in each label; 255 is certain',
        topics.INSTANCE_MASK: 'instance of each pixel, 0 where there is none',
    }
)


class TopicRow(NamedTuple):
    """Row of the topic table; `name` is relative or starts with `~`, as in code."""

    name: str
    msgtype: str
    qos: str
    meaning: str


def parameter_table(kind: type[ParameterSet] = Parameters) -> str:
    """Return the table of a node's parameters as Markdown."""
    rows = []
    for f in fields(kind):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        rows.append(
            [
                f'`{f.name}`',
                f'`{_yaml(default)}`',
                f.metadata['description'] + _limits(f.metadata),
                f.metadata['settable'],
            ]
        )
    return markdown.table(['parameter', 'default', 'meaning', 'may be set'], rows)


def launch_table() -> str:
    """Return the table of the launch arguments that are not parameters, as Markdown."""
    rows = [
        [
            f'`{argument.name}`',
            f'`{argument.default}`' if argument.default else '',
            argument.description + _limits({'choices': argument.choices, 'range': None}),
        ]
        for argument in SEG
        if argument not in NODE_PARAMETERS
    ]
    return markdown.table(['argument', 'default', 'meaning'], rows)


def topic_table() -> str:
    """Return the table of the node's topics as Markdown."""
    return _topic_table(topic_rows())


def cloud_topic_table() -> str:
    """Return the table of the topics of label_cloud as Markdown."""
    return _topic_table(cloud_topic_rows())


def _topic_table(topic_rows_: Sequence[TopicRow]) -> str:
    rows = [[f'`{t.name}`', f'{t.msgtype}', t.qos, t.meaning] for t in topic_rows_]
    return markdown.table(['topic', 'type', 'QoS', 'content'], rows)


def model_table() -> str:
    """Return the table of the bundled models as Markdown; IoU in percent.

    A dash marks the robustness of a model whose published record lacks it.
    """
    rows = []
    for name in bundled_models():
        known = Spec.read(locate(name) / SPEC_FILE).provenance
        scores = next(iter(known['metrics'].values()))
        int8 = GraphInfo.read(info_file(locate(name) / GRAPHS_DIR / 'openvino-int8'))
        ious = {
            'mIoU': scores['miou'],
            'mIoU in int8': int8.miou['int8'],
            **_robustness(name, next(iter(known['metrics']))),
            **scores['class_iou'],
        }
        size = f'{known["parameters"] / 1e6:.1f} M'
        rows.append([f'`{name}`', size, *map(percent, ious.values())])
    return markdown.table(['model', 'parameters', *ious], rows)


def _robustness(model: str, data: str) -> dict[str, float]:
    """Return the mean mIoU of a bundled model under corruption; NaN if not measured on `data`."""
    found = find_result(find_checkpoint(model).digest, published_folders())
    means = {} if found is None or found[0].data != data else found[1].summary()
    return {
        '15 corruptions': means.get('common', math.nan),
        'eight kinds': means.get('eight', math.nan),
    }


def topic_rows() -> list[TopicRow]:
    """Return the rows of all topics, subscriptions first."""
    info, mask, latched = map(_qos_words, (CAMERA_INFO_QOS, MASK_QOS, LATCHED_QOS))
    camera = f'as reliable as the camera, depth {DEPTH}'
    compressed = topics.IMAGE + topics.COMPRESSED_SUFFIX
    return [
        TopicRow(topics.IMAGE, IMAGE, camera, 'camera (subscribed)'),
        TopicRow(
            compressed, COMPRESSED_IMAGE, camera,
            'camera, if `image_transport` is compressed',
        ),
        TopicRow(topics.CAMERA_INFO, CAMERA_INFO, info, 'calibration (subscribed, optional)'),
        *(_picture_row(output, mask) for output in OUTPUTS.values()),
        TopicRow(
            f'~/{topics.CAMERA_INFO}', CAMERA_INFO, mask,
            'calibration, unchanged: a mask has the size of its image',
        ),
        TopicRow(
            f'~/{topics.SCORES}', 'std_msgs/String', mask,
            'once a second: scores of the labels as JSON',
        ),
        TopicRow(
            f'~/{topics.LABEL_INFO}', 'vision_msgs/LabelInfo', latched,
            'ids and names, where vision_msgs is installed',
        ),
        TopicRow(
            f'~/{topics.LABEL_INFO_JSON}', 'std_msgs/String', latched,
            'label scheme, ids, names and colors as JSON',
        ),
        TopicRow(
            topics.DIAGNOSTICS, 'diagnostic_msgs/DiagnosticArray', _qos_words(DIAGNOSTICS_QOS),
            'once a second: fates of the frames, rates, latencies, model, last error',
        ),
    ]  # fmt: skip


def cloud_topic_rows() -> list[TopicRow]:
    """Return the rows of the topics of label_cloud, subscriptions first."""
    info, mask, latched = map(_qos_words, (CAMERA_INFO_QOS, MASK_QOS, LATCHED_QOS))
    adapted = f'as reliable as the publisher, depth {DEPTH}'
    return [
        TopicRow(
            intake.DEPTH_IMAGE.topic, IMAGE, adapted,
            f'{", ".join(encodings.DEPTH)}: depth in mm, or in m as floats, if `source` is depth',
        ),
        TopicRow(topics.CAMERA_INFO, CAMERA_INFO, info, 'calibration, if `source` is depth'),
        TopicRow(
            intake.ORGANIZED_CLOUD.topic, POINT_CLOUD, adapted,
            'organized cloud, if `source` is cloud',
        ),
        TopicRow(intake.LABEL_MASK.topic, IMAGE, adapted, 'mono8: class id of each pixel'),
        TopicRow(intake.CONFIDENCE.topic, IMAGE, adapted, 'mono8, if `use_confidence`'),
        TopicRow(intake.INSTANCE_MASK.topic, IMAGE, adapted, '16UC1, if `use_instances`'),
        TopicRow(intake.COLOR_IMAGE.topic, IMAGE, adapted, 'camera, if `color` is image'),
        TopicRow(intake.LABEL_INFO, 'std_msgs/String', latched, 'names and colors of the classes'),
        TopicRow(f'~/{topics.POINTS}', POINT_CLOUD, mask, ', '.join(name for name, _ in FIELDS)),
        TopicRow(
            topics.DIAGNOSTICS, 'diagnostic_msgs/DiagnosticArray', _qos_words(DIAGNOSTICS_QOS),
            'once a second: fates of depth images and masks, rates, latencies, last error',
        ),
    ]  # fmt: skip


def _picture_row(output: Output, qos: str) -> TopicRow:
    if output.form == DETECTIONS:
        return TopicRow(
            f'~/{output.name}', 'vision_msgs/Detection2DArray', qos,
            'class, score and box of each instance, where vision_msgs is installed',
        )  # fmt: skip
    if output.encode is None:
        meaning = f'{output.encoding}: {PICTURES[output.topic]}'
        return TopicRow(f'~/{output.name}', IMAGE, qos, meaning)
    return TopicRow(
        f'~/{output.name}', COMPRESSED_IMAGE, qos, f'{output.topic} as {output.codec.upper()}'
    )


def _qos_words(qos: QoSProfile) -> str:
    reliable = qos.reliability == QoSReliabilityPolicy.RELIABLE
    latched = qos.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    return f'{"reliable" if reliable else "best effort"}, ' + (
        'latched' if latched else f'depth {qos.depth}'
    )


def _limits(metadata: Mapping[str, Any]) -> str:
    if metadata['choices']:
        return f': {", ".join(f"`{choice}`" for choice in metadata["choices"] if choice)}'
    if metadata['range']:
        low, high = metadata['range']
        return f' ({low} to {high})' if isinstance(low, int) else f' ({low:g} to {high:g})'
    return ''


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) and not value else str(value)


TABLES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        'cloud-parameters': partial(parameter_table, CloudParameters),
        'cloud-topics': cloud_topic_table,
        'launch': launch_table,
        'models': model_table,
        'parameters': parameter_table,
        'topics': topic_table,
    }
)
#: Tables of each page.
PAGES: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        'README.md': ('models', 'topics'),
        'docs/clouds.md': ('cloud-topics', 'cloud-parameters'),
        'docs/models.md': ('models',),
        'docs/ros-interface.md': ('launch', 'parameters', 'topics'),
    }
)


def with_tables(text: str, names: Sequence[str]) -> str:
    """Return a text with some tables brought up to date; raises SettingError without a marker."""
    for name in names:
        text = markdown.with_content(text, name, TABLES[name]())
    return text


def with_figures(text: str, figures: str) -> str:
    """Return a text with the figures of the demo; raises SettingError without a marker."""
    return markdown.with_content(text, 'figures', f'```text\n{figures.rstrip()}\n```')


def _update(page: str, change: Callable[[str], str]) -> None:
    path = ROOT / page
    before = path.read_text(encoding='utf-8')
    try:
        after = change(before)
    except SettingError as error:
        raise SettingError(f'{page}: {error}') from error
    path.write_text(after, encoding='utf-8')
    print(f'{page}: {"unchanged" if after == before else "updated"}')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python docs/reference_tables.py',
        description='Bring the tables of README.md and the manual up to date.',
    )
    parser.add_argument('--figures', type=Path, help='figures.txt of a run of the demo')
    args = parser.parse_args(argv)
    try:
        for page, names in PAGES.items():
            _update(page, partial(with_tables, names=names))
        if args.figures is not None:
            figures = args.figures.read_text(encoding='utf-8')
            _update(FIGURES_PAGE, partial(with_figures, figures=figures))
    except (OSError, SettingError) as error:
        print(f'reference_tables: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
