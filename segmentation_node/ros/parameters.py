# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: name, type, default, range and description, each said once."""

import difflib
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from segmentation_node.errors import SettingError, quoted
from segmentation_node.images.bit_depth import FULL_BITS, LEAST_BITS
from segmentation_node.images.files import MAX_PIXELS, MAX_SIDE
from segmentation_node.labels import available_schemes
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA, PRECISIONS

IMAGE_TRANSPORTS = ('raw', 'compressed')
#: Unknown names that are told of, and characters of one that is compared with the known ones.
_MAX_LISTED: Final = 8
_MAX_NAME: Final = 64
_TOPIC_TOKEN = re.compile(r'[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*')

#: Parameters that ROS declares itself, some of them later than the node its own.
_OF_ROS: Final = re.compile(r'qos_overrides\..*|use_sim_time|start_type_description_service')
#: Types that the value of a parameter may have, by its default, and what they are called.
_KINDS: Final[Mapping[type, tuple[frozenset[Parameter.Type], str]]] = MappingProxyType(
    {
        str: (frozenset({Parameter.Type.STRING}), 'text'),
        bool: (frozenset({Parameter.Type.BOOL}), 'true or false'),
        int: (frozenset({Parameter.Type.INTEGER}), 'an integer'),
        float: (frozenset({Parameter.Type.DOUBLE, Parameter.Type.INTEGER}), 'a number'),
    }
)
_LISTS: Final[Mapping[type, tuple[frozenset[Parameter.Type], str]]] = MappingProxyType(
    {
        # An empty list has no type in ROS.
        int: (frozenset({Parameter.Type.INTEGER_ARRAY, Parameter.Type.NOT_SET}),
              'a list of integers'),
        str: (frozenset({Parameter.Type.STRING_ARRAY, Parameter.Type.NOT_SET}), 'a list of texts'),
    }
)  # fmt: skip

#: When a parameter may be set, as its descriptor tells.
ANY_TIME = 'at any time'
RELOADS = 'at any time; loads the model anew and swaps between two frames'
UNCONFIGURED = 'while the node is not configured'
START = 'at start only'


def declared(
    default: Any,
    description: str,
    settable: str,
    *,
    choices: tuple[str, ...] = (),
    range_: tuple[float, float] | None = None,
) -> Any:
    """Declare a field of Parameters."""
    metadata = {
        'description': description, 'settable': settable, 'choices': choices, 'range': range_,
    }  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """Typed values of all parameters; the fields are their declarations."""

    model: str = declared(
        DEFAULT_MODEL, 'Bundled model, folder of a checkpoint, or Hugging Face hub id', RELOADS
    )
    runtime: str = declared(
        'auto', 'What runs the network; auto measures what is the fastest here', RELOADS,
        choices=RUNTIMES,
    )  # fmt: skip
    device: str = declared(
        'auto', 'cpu, cuda or cuda:N; auto takes the GPU where there is one', RELOADS
    )
    precision: str = declared(
        'auto',
        'Arithmetic of the network; auto measures which is the fastest of those that keep the '
        'labels',
        RELOADS,
        choices=PRECISIONS,
    )  # fmt: skip
    input_size: list[int] = declared(
        [0, 0],
        'Height and width in pixels of the box that images are scaled into for the network, '
        'aspect ratio kept; [0, 0] is what the checkpoint says. Masks have the size of the image',
        RELOADS,
    )
    image_size: list[int] = declared(
        [0, 0],
        'Height and width in pixels of the images to be ready for before the first comes; [0, 0] '
        'gets ready when it is there, which may take seconds. Images of other sizes are welcome',
        RELOADS,
    )
    label_scheme: str = declared(
        '', 'Label scheme to publish; empty is the one the model learned', RELOADS
    )
    min_confidence: float = declared(
        0.0, 'Pixels below this confidence are published as void', ANY_TIME, range_=(0.0, 1.0)
    )
    overlay_alpha: float = declared(
        DEFAULT_OVERLAY_ALPHA,
        'Share of the colour mask in the overlay',
        ANY_TIME,
        range_=(0.0, 1.0),
    )
    max_rate_hz: float = declared(
        0.0, 'Frames per second and camera at most, 0 is no limit', ANY_TIME,
        range_=(0.0, 1000.0),
    )  # fmt: skip
    max_image_pixels: int = declared(
        2**23,
        'Images of more pixels are refused before they are decoded, which bounds the memory that '
        'one frame can take; the default admits 3840 x 2160',
        ANY_TIME,
        range_=(1, MAX_PIXELS),
    )
    bits_per_sample: int = declared(
        FULL_BITS,
        'How many bits the camera uses in images of 16 bits: 12 for 12-bit values from 0 to 4095',
        ANY_TIME,
        range_=(LEAST_BITS, FULL_BITS),
    )
    image_transport: str = declared(
        'raw', 'raw subscribes to image, compressed to image/compressed', UNCONFIGURED,
        choices=IMAGE_TRANSPORTS,
    )  # fmt: skip
    cameras: list[str] = declared(
        [''],
        'Prefixes of the cameras: front means front/image in and ~/front/label_mask out; '
        'the empty prefix means image in and ~/label_mask out',
        UNCONFIGURED,
    )
    autostart: bool = declared(
        True, 'Configure and activate at start; false leaves it to a lifecycle manager', START
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            choices = f.metadata['choices']
            value = getattr(self, f.name)
            if choices and value not in choices:
                raise SettingError(f'{f.name} is {value!r}; choose one of {", ".join(choices)}')
        for name in ('input_size', 'image_size'):
            size = getattr(self, name)
            if size != [0, 0] and not (len(size) == 2 and all(1 <= n <= MAX_SIDE for n in size)):
                raise SettingError(
                    f'{name} is {list(size)}; give [height, width] in pixels, each from 1 to '
                    f'{MAX_SIDE}, or [0, 0] to leave it open'
                )
            if any(size) and size[0] * size[1] > self.max_image_pixels:
                raise SettingError(
                    f'{name} is {list(size)}, {size[0] * size[1]} pixels, and max_image_pixels '
                    f'is {self.max_image_pixels}; make one smaller or the other larger'
                )
        wrong = [c for c in self.cameras if c and not _TOPIC_TOKEN.fullmatch(c)]
        if wrong or not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise SettingError(
                f'cameras is {list(self.cameras)}; give one or more different prefixes of '
                f"letters, digits, _ and /, such as ['front', 'rear']"
            )
        path = self.label_scheme.endswith(('.yaml', '.yml'))
        if self.label_scheme and not path and self.label_scheme not in available_schemes():
            raise SettingError(
                f'label_scheme is {self.label_scheme!r}; there are '
                f'{", ".join(available_schemes())}, or give the path of a .yaml file'
            )

    @property
    def input_size_hw(self) -> tuple[int, int] | None:
        """`input_size` as the segmenter takes it."""
        return _size_hw(self.input_size)

    @property
    def image_size_hw(self) -> tuple[int, int] | None:
        """`image_size` as the segmenter takes it."""
        return _size_hw(self.image_size)

    def with_changes(self, changes: Iterable[Parameter]) -> 'Parameters':
        """Values after setting some ROS parameters; raises SettingError naming the remedy."""
        return replace(self, **{p.name: _checked_type(p) for p in changes if p.name in _DEFAULTS})

    def changed(self, other: 'Parameters', settable: str) -> list[str]:
        """Names of the parameters of one settable kind that differ from `other`."""
        names = [f.name for f in fields(self) if f.metadata['settable'] == settable]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {f.name: getattr(Parameters(), f.name) for f in fields(Parameters)}
)


def _size_hw(size: list[int]) -> tuple[int, int] | None:
    return (size[0], size[1]) if any(size) else None


def declare_parameters(node: Node, overrides: MutableMapping[str, Parameter]) -> Parameters:
    """Declare all on a node and return their values, overrides applied.

    Args:
        node: that gets the parameters.
        overrides: its own values of parameters, from files and the command line; numbers without
            a fraction become floating point where that is declared.

    Raises:
        SettingError, rclpy.exceptions.ParameterException: an override has a value that is
            not allowed or a type that does not fit.
    """
    given = as_declared([override for name, override in overrides.items() if name in _DEFAULTS])
    overrides.update({override.name: override for override in given})
    parameters = Parameters().with_changes(given)
    for f in fields(Parameters):
        node.declare_parameter(f.name, _DEFAULTS[f.name], _descriptor(f))
    return parameters


def as_declared(parameters: list[Parameter]) -> list[Parameter]:
    """Return parameters with integers as floating point where that is declared: 1 for 1.0."""
    return [
        Parameter(p.name, Parameter.Type.DOUBLE, float(p.value))
        if p.type_ == Parameter.Type.INTEGER and isinstance(_DEFAULTS.get(p.name), float)
        else p
        for p in parameters
    ]


def undeclared(names: Iterable[str]) -> str:
    """Return a warning of names that are no parameters, '' without any; ROS ignores them."""
    unknown = []
    for name in sorted(names):
        if name not in _DEFAULTS and not _OF_ROS.fullmatch(name):
            near = difflib.get_close_matches(name[:_MAX_NAME], _DEFAULTS, 1)
            unknown.append(quoted(name) + (f' (did you mean {near[0]}?)' if near else ''))
    if not unknown:
        return ''
    some = ', '.join(unknown[:_MAX_LISTED])
    return (
        f'ignored {len(unknown)} unknown parameters: {some}; there are {", ".join(_DEFAULTS)}: '
        f'correct the parameter file or the command line'
    )


def _checked_type(parameter: Parameter) -> Any:
    """Value of a declared parameter, [] of an empty list; raises SettingError on other types."""
    default = _DEFAULTS[parameter.name]
    is_list = isinstance(default, list)
    types, expected = _LISTS[type(default[0])] if is_list else _KINDS[type(default)]
    if parameter.type_ not in types:
        shown = '[]' if parameter.type_ == Parameter.Type.NOT_SET else quoted(parameter.value)
        raise SettingError(
            f'{parameter.name} is {shown}; expected {expected}, such as {default!r}, which is the '
            f'default'
        )
    return [] if parameter.value is None else _python(parameter.value)


def _descriptor(f: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=f.metadata['description'],
        additional_constraints=f'may be set {f.metadata["settable"]}'
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
    """ROS hands arrays over as array.array or tuples; compare and show them as lists."""
    return value if isinstance(value, str | bool | int | float) else list(value)
