"""Helpers of the generators: random draws, mirrored parts, and points on a circle."""
import math

import numpy as np

from .primitives import mirror


def pick(rng, **weights):
    """Draw one of the names, with these weights."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


def draw(rng, ranges):
    """Draw one uniform number for each named range; returns a dict."""
    return {name: rng.uniform(low, high) for name, (low, high) in ranges.items()}


def both(role, mesh):
    """A part and its mirror image, with the same role."""
    yield role, mesh
    yield role, mirror(mesh)


def mirrored(parts):
    """The mirror images of the parts."""
    for role, mesh in parts:
        yield role, mirror(mesh)


def around(radius, count, turn):
    """`count` points on a circle around the origin, the first at the angle `turn`."""
    for k in range(count):
        angle = turn + 2 * math.pi * k / count
        yield radius * math.cos(angle), radius * math.sin(angle)
