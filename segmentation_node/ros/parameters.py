# SPDX-License-Identifier: Apache-2.0
"""Parameters of the nodes: name, type, default, range and description, declared once."""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter
from typing_extensions import Self

from segmentation_node.errors import SettingError, quoted, suggestion
from segmentation_node.images.bit_depth import FULL_BITS, LEAST_BITS
from segmentation_node.images.files import MAX_PIXELS, MAX_SIDE
from segmentation_node.instances import (
    DEFAULT_MIN_INSTANCE_OVERLAP,
    DEFAULT_MIN_INSTANCE_SCORE,
    Thresholds,
)
from segmentation_node.labels import available_schemes
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA, PRECISIONS

IMAGE_TRANSPORTS = ('raw', 'compressed')
#: Maximum number of unknown names in a warning.
_MAX_LISTED: Final = 8
_TOPIC_TOKEN = re.compile(r'[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*')

#: Parameters that ROS declares itself, some of them after those of the node.
_ROS_PARAMETERS: Final = re.compile(
    r'qos_overrides\..*|use_sim_time|start_type_description_service'
)
#: Accepted types of a value by the type of the default, and their description.
_TYPES: Final[Mapping[type, tuple[frozenset[Parameter.Type], str]]] = MappingProxyType(
    {
        str: (frozenset({Parameter.Type.STRING}), 'a string'),
        bool: (frozenset({Parameter.Type.BOOL}), 'true or false'),
        int: (frozenset({Parameter.Type.INTEGER}), 'an integer'),
        float: (frozenset({Parameter.Type.DOUBLE, Parameter.Type.INTEGER}), 'a number'),
    }
)
_LIST_TYPES: Final[Mapping[type, tuple[frozenset[Parameter.Type], str]]] = MappingProxyType(
    {
        # An empty list has no type in ROS.
        int: (
            frozenset({Parameter.Type.INTEGER_ARRAY, Parameter.Type.NOT_SET}),
            'a list of integers',
        ),
        str: (
            frozenset({Parameter.Type.STRING_ARRAY, Parameter.Type.NOT_SET}),
            'a list of strings',
        ),
    }
)

#: Times at which a parameter may be set, part of its descriptor.
ANY_TIME = 'at any time'
RELOADS = 'at any time; reloads the model in the background'
UNCONFIGURED = 'while the node is not configured'
START = 'only at start'


def declared(
    default: Any,
    description: str,
    settable: str,
    *,
    choices: tuple[str, ...] = (),
    range_: tuple[float, float] | None = None,
) -> Any:
    """Return a field of Parameters."""
    metadata = {
        'description': description, 'settable': settable, 'choices': choices, 'range': range_,
    }  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ParameterSet:
    """Typed values of the parameters of a node; each field declares one parameter."""

    def __post_init__(self) -> None:
        for f in fields(self):
            choices = f.metadata['choices']
            value = getattr(self, f.name)
            if choices and value not in choices:
                raise SettingError(f'{f.name} is {value!r}; choose one of {", ".join(choices)}')

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of each parameter."""
        values = cls()
        return {f.name: getattr(values, f.name) for f in fields(cls)}

    def with_changes(self, changes: Iterable[Parameter]) -> Self:
        """Return the values after some ROS parameters were set; raises SettingError."""
        defaults = self.defaults()
        return replace(
            self,
            **{p.name: _checked_type(p, defaults[p.name]) for p in changes if p.name in defaults},
        )

    def changed(self, other: Self, settable: str) -> list[str]:
        """Return names of parameters that differ from `other`, of those with one `settable`."""
        names = [f.name for f in fields(self) if f.metadata['settable'] == settable]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


ParametersT = TypeVar('ParametersT', bound=ParameterSet)


@dataclass(frozen=True)
class Parameters(ParameterSet):
    """Typed values of all parameters of the segmentation node."""

    model: str = declared(
        DEFAULT_MODEL, 'Bundled model, checkpoint folder, or Hugging Face hub id', RELOADS
    )
    runtime: str = declared(
        'auto', 'Runtime of the network; auto uses the fastest by measurement', RELOADS,
        choices=RUNTIMES,
    )  # fmt: skip
    device: str = declared(
        'auto', 'cpu, cuda or cuda:N; auto uses the GPU if there is one', RELOADS
    )
    precision: str = declared(
        'auto',
        'Numeric precision of the network; auto uses the fastest that keeps the labels',
        RELOADS,
        choices=PRECISIONS,
    )  # fmt: skip
    input_size: list[int] = declared(
        [0, 0],
        'Height and width in pixels to which images are scaled for the network, keeping their '
        'aspect ratio; [0, 0] uses the size in the checkpoint. Masks have the size of the image',
        RELOADS,
    )
    image_size: list[int] = declared(
        [0, 0],
        'Height and width in pixels of the expected images, to prepare the network before the '
        'first one; [0, 0] prepares it when that arrives, which may take seconds. Other sizes are '
        'supported, too',
        RELOADS,
    )
    label_scheme: str = declared(
        '', 'Label scheme to publish; empty uses the scheme of the model', RELOADS
    )
    min_confidence: float = declared(
        0.0, 'Pixels below this confidence are published as void', ANY_TIME, range_=(0.0, 1.0)
    )
    overlay_alpha: float = declared(
        DEFAULT_OVERLAY_ALPHA,
        'Share of the color mask in the overlay',
        ANY_TIME,
        range_=(0.0, 1.0),
    )
    min_instance_score: float = declared(
        DEFAULT_MIN_INSTANCE_SCORE,
        'Segments of panoptic models and instances with a lower score are dropped',
        ANY_TIME,
        range_=(0.0, 1.0),
    )
    min_instance_overlap: float = declared(
        DEFAULT_MIN_INSTANCE_OVERLAP,
        'Segments of panoptic models are dropped if better ones leave them no more than this '
        'share of their mask',
        ANY_TIME,
        range_=(0.0, 1.0),
    )
    overlay_outlines: bool = declared(
        False, 'Paint the outlines of instances in the overlay', ANY_TIME
    )
    track_instances: bool = declared(
        False,
        'Give instances ids that stay with their objects from frame to frame, in ~/instance_mask '
        'and ~/detections',
        ANY_TIME,
    )
    max_rate_hz: float = declared(
        0.0, 'Maximum number of frames per second and camera; 0 means no limit', ANY_TIME,
        range_=(0.0, 1000.0),
    )  # fmt: skip
    max_image_pixels: int = declared(
        2**23,
        'Images with more pixels are rejected before they are decoded, which limits the memory '
        'of a frame; the default accepts 3840 x 2160',
        ANY_TIME,
        range_=(1, MAX_PIXELS),
    )
    bits_per_sample: int = declared(
        FULL_BITS,
        'Used bits per sample in 16-bit images: 12 for values from 0 to 4095',
        ANY_TIME,
        range_=(LEAST_BITS, FULL_BITS),
    )
    image_transport: str = declared(
        'raw', 'raw subscribes to image, compressed to image/compressed', UNCONFIGURED,
        choices=IMAGE_TRANSPORTS,
    )  # fmt: skip
    cameras: list[str] = declared(
        [''],
        'Prefixes of the cameras: front subscribes to front/image and publishes '
        '~/front/label_mask; the empty prefix uses image and ~/label_mask',
        UNCONFIGURED,
    )
    truth_topic: str = declared(
        '',
        'Label masks with the truth, which the masks of the same stamps are scored against; empty '
        'for none. A name without / at its start is below the prefix of each camera, as image is',
        UNCONFIGURED,
    )
    score_window: int = declared(
        100, 'Number of newest frames that the sliding scores cover', UNCONFIGURED,
        range_=(1, 10_000),
    )  # fmt: skip
    always_score: bool = declared(
        False,
        'Measure scores, and segment frames for them, even if ~/scores has no subscriber; '
        '/diagnostics has them, too',
        ANY_TIME,
    )
    autostart: bool = declared(
        True, 'Configure and activate at start; false leaves both to a lifecycle manager', START
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('input_size', 'image_size'):
            size = getattr(self, name)
            if size != [0, 0] and not (len(size) == 2 and all(1 <= n <= MAX_SIDE for n in size)):
                raise SettingError(
                    f'{name} is {list(size)}; give [height, width] in pixels, each from 1 to '
                    f'{MAX_SIDE}, or [0, 0] for no fixed size'
                )
            if any(size) and size[0] * size[1] > self.max_image_pixels:
                raise SettingError(
                    f'{name} is {list(size)}, {size[0] * size[1]} pixels, and max_image_pixels '
                    f'is {self.max_image_pixels}; reduce {name} or increase max_image_pixels'
                )
        wrong = [c for c in self.cameras if c and not _TOPIC_TOKEN.fullmatch(c)]
        if wrong or not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise SettingError(
                f'cameras is {list(self.cameras)}; give one or more different prefixes with '
                f"letters, digits, _ and /, such as ['front', 'rear']"
            )
        self._check_truth_topic()
        path = self.label_scheme.endswith(('.yaml', '.yml'))
        if self.label_scheme and not path and self.label_scheme not in available_schemes():
            raise SettingError(
                f'label_scheme is {self.label_scheme!r}; choose one of '
                f'{", ".join(available_schemes())}, or give the path of a .yaml file'
            )

    def _check_truth_topic(self) -> None:
        topic = self.truth_topic
        if topic and not _TOPIC_TOKEN.fullmatch(topic.removeprefix('/')):
            raise SettingError(
                f'truth_topic is {quoted(topic)}; give a topic with letters, digits, _ and /, '
                f'such as /ground_truth/label_mask, or leave it empty'
            )
        if topic.startswith('/') and len(self.cameras) > 1:
            raise SettingError(
                f'truth_topic is {quoted(topic)}, one topic for {len(self.cameras)} cameras; give '
                f'it without the first /, so that it becomes {self.cameras[0]}{topic} and so on'
            )

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of instances for the segmenter."""
        return Thresholds(self.min_instance_score, self.min_instance_overlap)

    @property
    def input_size_hw(self) -> tuple[int, int] | None:
        """`input_size` for the segmenter: None if not set."""
        return _size_hw(self.input_size)

    @property
    def image_size_hw(self) -> tuple[int, int] | None:
        """`image_size` for the segmenter: None if not set."""
        return _size_hw(self.image_size)


def _size_hw(size: list[int]) -> tuple[int, int] | None:
    return (size[0], size[1]) if any(size) else None


def declare_parameters(
    node: Node, overrides: MutableMapping[str, Parameter], kind: type[ParametersT]
) -> ParametersT:
    """Declare all parameters on a node and return their values, including overrides.

    Args:
        node: receives the parameters.
        overrides: parameters of the node from files and the command line; integers are replaced
            by floating-point numbers for parameters of that type.
        kind: parameters to declare.

    Raises:
        SettingError, rclpy.exceptions.ParameterException: an override has an invalid value or
            type.
    """
    defaults = kind.defaults()
    given = integers_as_floats(
        [override for name, override in overrides.items() if name in defaults], defaults
    )
    overrides.update({override.name: override for override in given})
    parameters = kind().with_changes(given)
    for f in fields(kind):
        node.declare_parameter(f.name, defaults[f.name], _descriptor(f))
    return parameters


def integers_as_floats(
    parameters: list[Parameter], defaults: Mapping[str, Any]
) -> list[Parameter]:
    """Convert integers to floats for parameters that are declared as float: 1 to 1.0."""
    return [
        Parameter(p.name, Parameter.Type.DOUBLE, float(p.value))
        if p.type_ == Parameter.Type.INTEGER and isinstance(defaults.get(p.name), float)
        else p
        for p in parameters
    ]


def unknown_parameters_warning(names: Iterable[str], kind: type[ParameterSet]) -> str:
    """Return a warning about unknown names, which ROS ignores, or '' if all are known."""
    unknown, defaults = [], kind.defaults()
    for name in sorted(names):
        if name not in defaults and not _ROS_PARAMETERS.fullmatch(name):
            hint = suggestion(name, defaults)
            unknown.append(quoted(name) + (f' ({hint})' if hint else ''))
    if not unknown:
        return ''
    listed = ', '.join(unknown[:_MAX_LISTED])
    return (
        f'ignored {len(unknown)} unknown parameters: {listed}; known are {", ".join(defaults)}: '
        f'correct the parameter file or the command line'
    )


def _checked_type(parameter: Parameter, default: Any) -> Any:
    """Return the value of a declared parameter; raises SettingError if its type is wrong."""
    is_list = isinstance(default, list)
    types, expected = _LIST_TYPES[type(default[0])] if is_list else _TYPES[type(default)]
    if parameter.type_ not in types:
        shown = '[]' if parameter.type_ == Parameter.Type.NOT_SET else quoted(parameter.value)
        raise SettingError(
            f'{parameter.name} is {shown}; expected {expected}, such as the default {default!r}'
        )
    return [] if parameter.value is None else _python(parameter.value)


def _descriptor(f: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=f.metadata['description'],
        additional_constraints=f'can be set {f.metadata["settable"]}'
        + (f'; one of {", ".join(f.metadata["choices"])}' if f.metadata['choices'] else ''),
        read_only=f.metadata['settable'] == START,
    )
    if f.metadata['range'] is not None:
        low, high = f.metadata['range']
        if isinstance(f.default, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _python(value: Any) -> Any:
    """Convert arrays, which ROS passes as array.array or tuple, to lists."""
    return value if isinstance(value, str | bool | int | float) else list(value)
