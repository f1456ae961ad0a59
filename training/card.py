# SPDX-License-Identifier: Apache-2.0
"""Model cards, made from a checkpoint's own provenance and never typed."""

from segmentation_node.checkpoint import Spec


def model_card(spec: Spec) -> str:
    """Markdown that states data, recipe and measured figures."""
    recipe = spec.provenance['recipe']
    lines = [
        f'# {spec.family} on {spec.label_scheme}',
        '',
        (
            f'{spec.provenance["parameters"] / 1e6:.1f} M parameters, stored as fp16 safetensors. '
            f'Step {spec.provenance["step"]} of {recipe["steps"]}.'
        ),
        '',
        '## Data',
        '',
        *(f'- {d.get("source", d["root"])}' for d in recipe['train']),
        '',
        '## Figures',
        '',
    ]
    for name, metrics in spec.provenance['metrics'].items():
        lines += [
            f'### {name}',
            '',
            (
                f'mIoU {metrics["miou"]:.3f} without void, {metrics["miou_with_void"]:.3f} with '
                f'void as a class; pixel accuracy {metrics["pixel_accuracy"]:.3f}.'
            ),
            '',
            '| class | IoU |',
            '|---|---|',
            *(f'| {c} | {iou:.3f} |' for c, iou in metrics['class_iou'].items()),
            '',
        ]
    hidden = ('train', 'val', 'network', 'notes')
    lines += [
        '## Recipe',
        '',
        recipe['notes'].strip(),
        '',
        *(f'- {key}: {value}' for key, value in recipe.items() if key not in hidden),
        '',
    ]
    return '\n'.join(lines)
