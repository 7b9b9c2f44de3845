"""Helpers of the builders: random draws, twins and points around a circle."""
import math

import numpy as np

from .primitives import mirror


def pick(rng, **weights):
    """One of the names, drawn by weight."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


def draw(rng, ranges):
    """One uniform number for each named range, as a dict."""
    return {name: rng.uniform(low, high) for name, (low, high) in ranges.items()}


def both(role, mesh):
    """A part and its twin on the other side."""
    yield role, mesh
    yield role, mirror(mesh)


def mirrored(parts):
    """The parts, moved to the other side."""
    for role, mesh in parts:
        yield role, mirror(mesh)


def around(radius, count, turn):
    """`count` points of a circle about the origin, the first at the angle `turn`."""
    for k in range(count):
        angle = turn + 2 * math.pi * k / count
        yield radius * math.cos(angle), radius * math.sin(angle)
