# SPDX-License-Identifier: Apache-2.0
"""Command: write the tables of launch arguments, parameters, topics and models into README.md.

Their content comes from the code and from the metadata of the bundled checkpoints. The option
--figures also writes the figures of a demo run.

Each table is between the lines `<!-- NAME: ... -->` and `<!-- end of NAME -->`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

from segmentation_node import markdown, topics
from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models, locate
from segmentation_node.errors import SettingError
from segmentation_node.pipeline.outputs import OUTPUTS, Output
from segmentation_node.ros.camera_subscription import DEPTH
from segmentation_node.ros.intake import CAMERA_INFO_QOS
from segmentation_node.ros.launching.arguments import NODE_PARAMETERS, SEG
from segmentation_node.ros.parameters import Parameters
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS, LATCHED_QOS, MASK_QOS
from segmentation_node.runtimes.graph_files import GRAPHS_DIR, GraphInfo, info_file

IMAGE: Final = 'sensor_msgs/Image'
COMPRESSED_IMAGE: Final = 'sensor_msgs/CompressedImage'
CAMERA_INFO: Final = 'sensor_msgs/CameraInfo'

#: Descriptions of the outputs.
DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        topics.LABEL_MASK: 'class id of every pixel',
        topics.COLOR_MASK: 'label mask in the colors of the label scheme',
        topics.OVERLAY: 'color mask over the camera image',
        topics.CONFIDENCE: 'confidence of the network in every pixel; 255 is certain',
    }
)


class TopicRow(NamedTuple):
    """Row of the table of topics; `name` as in code and launch files."""

    name: str
    msgtype: str
    qos: str
    meaning: str


def parameter_table() -> str:
    """Return a Markdown table of all parameters of the node."""
    rows = []
    for f in fields(Parameters):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        rows.append(
            [
                f'`{f.name}`',
                f'`{_yaml(default)}`',
                f.metadata['description'] + _limits(f.metadata),
                f.metadata['settable'],
            ]
        )
    return markdown.table(['parameter', 'default', 'meaning', 'can be set'], rows)


def launch_table() -> str:
    """Return a Markdown table of the launch arguments that are not parameters."""
    launch_only = [argument for argument in SEG if argument not in NODE_PARAMETERS]
    rows = [
        [f'`{argument.name}`', f'`{argument.default}`' if argument.default else '',
         argument.description + _limits({'choices': argument.choices, 'range': None})]
        for argument in launch_only
    ]  # fmt: skip
    return markdown.table(['argument', 'default', 'meaning'], rows)


def topic_table() -> str:
    """Return a Markdown table of all topics of the node."""
    rows = [[f'`{t.name}`', f'{t.msgtype}', t.qos, t.meaning] for t in topic_rows()]
    return markdown.table(['topic', 'type', 'QoS', 'content'], rows)


def model_table() -> str:
    """Return a Markdown table of the bundled models, IoU in percent."""
    rows = []
    for name in bundled_models():
        provenance = Spec.read(locate(name) / SPEC_FILE).provenance
        scores = next(iter(provenance['metrics'].values()))
        int8 = GraphInfo.read(info_file(locate(name) / GRAPHS_DIR / 'openvino-int8'))
        ious = {
            'mIoU': scores['miou'],
            'mIoU in int8': int8.miou['int8'],
            **scores['class_iou'],
        }
        size = f'{provenance["parameters"] / 1e6:.1f} M'
        rows.append([f'`{name}`', size, *(f'{100 * iou:.1f}' for iou in ious.values())])
    return markdown.table(['model', 'parameters', *ious], rows)


def topic_rows() -> list[TopicRow]:
    """Return all topics, the subscribed ones first."""
    info, mask, latched = map(_qos_words, (CAMERA_INFO_QOS, MASK_QOS, LATCHED_QOS))
    camera = f'reliability of the camera, depth {DEPTH}'
    compressed = topics.IMAGE + topics.COMPRESSED_SUFFIX
    return [
        TopicRow(topics.IMAGE, IMAGE, camera, 'in: camera images'),
        TopicRow(
            compressed, COMPRESSED_IMAGE, camera,
            'in: camera images, if `image_transport` is `compressed`',
        ),
        TopicRow(topics.CAMERA_INFO, CAMERA_INFO, info, 'in, optional: calibration of the camera'),
        *(_picture_row(output, mask) for output in OUTPUTS.values()),
        TopicRow(
            f'~/{topics.CAMERA_INFO}', CAMERA_INFO, mask,
            'calibration as received; valid for the masks, which have the size of the image',
        ),
        TopicRow(
            f'~/{topics.LABEL_INFO}', 'vision_msgs/LabelInfo', latched,
            'ids and names of the classes, if vision_msgs is installed',
        ),
        TopicRow(
            f'~/{topics.LABEL_INFO_JSON}', 'std_msgs/String', latched,
            'label scheme with ids, names and colors as JSON',
        ),
        TopicRow(
            topics.DIAGNOSTICS, 'diagnostic_msgs/DiagnosticArray', _qos_words(DIAGNOSTICS_QOS),
            'every second: frames by fate, rates, latencies, model, last error',
        ),
    ]  # fmt: skip


def _picture_row(output: Output, qos: str) -> TopicRow:
    if output.encode is None:
        meaning = f'{output.encoding}: {DESCRIPTIONS[output.topic]}'
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
        'topics': topic_table,
        'parameters': parameter_table,
        'models': model_table,
        'launch': launch_table,
    }
)


def with_tables(text: str) -> str:
    """Return a text with all tables updated; raises SettingError if a mark is missing."""
    for name, make in TABLES.items():
        text = markdown.with_content(text, name, make())
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.ros.reference',
        description='Update the tables in a README.',
    )
    parser.add_argument('file', type=Path, help='README.md')
    parser.add_argument('--figures', type=Path, help='figures.txt of a demo run')
    args = parser.parse_args(argv)
    try:
        before = args.file.read_text(encoding='utf-8')
        after = with_tables(before)
        if args.figures is not None:
            figures = args.figures.read_text(encoding='utf-8').rstrip()
            after = markdown.with_content(after, 'figures', f'```text\n{figures}\n```')
    except (OSError, SettingError) as error:
        print(f'reference: {args.file}: {error}', file=sys.stderr)
        return 1
    args.file.write_text(after, encoding='utf-8')
    print(f'{args.file}: {"tables are up to date" if after == before else "tables updated"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
