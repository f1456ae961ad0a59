# SPDX-License-Identifier: Apache-2.0
"""Random numbers from torch's global generator, which the pick of an image seeds."""

import math

import torch


def uniform(low: float, high: float) -> float:
    """Draw from [low, high)."""
    return low + (high - low) * float(torch.rand(()))


def log_uniform(low: float, high: float) -> float:
    """Draw from [low, high), alike between any factor and its inverse."""
    return math.exp(uniform(math.log(low), math.log(high)))


def happens(probability: float) -> bool:
    """Draw an event; draws no number if it is impossible."""
    return probability > 0 and float(torch.rand(())) < probability
