"""Functions that build closed parts, and functions that move them.

A mesh is a pair (vertices (V, 3) float64, faces (F, 3) int64); the package's docstring documents the axes.
"""
import functools
import math

import numpy as np


@functools.cache
def _loft_faces(rings, sides, pointed_start, pointed_end):
    """The faces of `loft`. In its vertices the rings come first, then the start point, then the end point."""
    ring = np.arange(sides)
    after = (ring + 1) % sides
    base = sides * np.arange(rings - 1)[:, None]
    a, b = (base + ring).ravel(), (base + after).ravel()
    faces = [np.stack([a, b, b + sides], 1), np.stack([a, b + sides, a + sides], 1)]

    def cap(first, point):  # a fan around the point, or else around the ring's first vertex
        i, j = (ring, after) if point is not None else (ring[1:-1], after[1:-1])
        hub = np.full_like(i, first if point is None else point)
        return np.stack([hub, first + i, first + j], 1)

    count = rings * sides
    faces.append(cap(0, count if pointed_start else None)[:, ::-1])
    faces.append(cap(count - sides, count + pointed_start if pointed_end else None))
    faces = np.concatenate(faces)
    faces.flags.writeable = False  # the cache returns the same array to every caller
    return faces


def loft(rings, start=None, end=None):
    """A closed mesh through a sequence of convex rings.

    Parameters
    ----------
    rings : (R, N, 3) float, R >= 1, each ring counter-clockwise around the direction to the next
    start, end : (3,) float, optional. Points at which the mesh ends; without them the ends are flat.
    """
    rings = np.asarray(rings, float)
    points = [p for p in (start, end) if p is not None]
    vertices = np.concatenate([rings.reshape(-1, 3), *np.reshape(points, (-1, 1, 3))])
    return vertices, _loft_faces(*rings.shape[:2], start is not None, end is not None)


def about(center, width):
    """The interval of this width around a centre."""
    return center - width / 2, center + width / 2


def box(x, y, z, top=None):
    """A box over the intervals x, y, z. `top` = (x, z) are other intervals for the upper rectangle.

    A number for x or z is the width of an interval around 0.
    """
    def rectangle(height, x, z):
        (x0, x1), (z0, z1) = (s if isinstance(s, tuple) else about(0, s) for s in (x, z))
        return [(x1, height, z1), (x1, height, z0), (x0, height, z0), (x0, height, z1)]
    return loft([rectangle(y[0], x, z), rectangle(y[1], *(top or (x, z)))])


def revolve(start, end, profile, sides=10):
    """A solid of revolution around the axis from `start` to `end`, both (3,).

    `profile` (P, 2) lists (position along the axis, 0 to 1; radius) with ascending positions. A radius of 0 at
    an end makes a point. With 4 sides around a coordinate axis, the sides are parallel to the other two axes,
    and the radius is half a diagonal.
    """
    start, axis = np.asarray(start, float), np.subtract(end, start)
    w = axis / math.sqrt(axis @ axis)
    u = _cross((0, 0, 1) if abs(w[1]) > 0.7 else (0, 1, 0), w)
    u /= math.sqrt(u @ u)
    angle = (np.arange(sides) + 0.5) * (2 * math.pi / sides)
    circle = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * _cross(w, u)
    position, radius = np.transpose(profile)
    centers = start + position[:, None] * axis
    first, last = int(radius[0] == 0), len(radius) - int(radius[-1] == 0)
    rings = centers[first:last, None] + radius[first:last, None, None] * circle
    return loft(rings, centers[0] if first else None, centers[-1] if last < len(radius) else None)


def rod(start, end, radius, end_radius=None, sides=8):
    """A cylinder between two points, or with `end_radius` a frustum of a cone."""
    return revolve(start, end, ((0, radius), (1, radius if end_radius is None else end_radius)), sides)


def ellipsoid(center, radii, rings=6, sides=10):
    """An ellipsoid with its poles along y; `rings` is the number of bands between the poles."""
    latitude = np.linspace(0, math.pi, rings + 1)
    profile = np.stack([(1 - np.cos(latitude)) / 2, np.sin(latitude)], 1)
    profile[[0, -1], 1] = 0
    vertices, faces = revolve((0, -1, 0), (0, 1, 0), profile, sides)
    return vertices * radii + center, faces


def wing(root, tip, root_chord, tip_chord, thickness, tip_thickness=None):
    """A swept, tapered wing. `root` and `tip` are points on its leading edge; the chords run along -z.

    The thickness is measured across the span and z, so a fin is a wing whose tip is above its root.
    """
    root, tip = np.asarray(root, float), np.asarray(tip, float)
    forward = np.array((0.0, 0.0, 1.0))
    up = _cross(forward, (tip - root) * (1, 1, 0))
    up /= math.sqrt(up @ up)
    chordwise = np.array((0.25, 0.0, 0.0, 0.25, 0.75, 1.0, 1.0, 0.75))[:, None]
    across = np.array((0.5, 0.2, -0.2, -0.5, -0.4, -0.2, 0.2, 0.4))[:, None]
    return loft([p - chord * chordwise * forward + thick * across * up for p, chord, thick in (
        (root, root_chord, thickness), (tip, tip_chord, tip_thickness or thickness))])


def extrude(profile, half_widths):
    """Extrude a simple polygon `profile` (N, 2) of (z, y), convex or not, to both sides in x.

    `half_widths`, (N,) or a number, is the distance in x for each corner.
    """
    profile = np.asarray(profile, float)
    half_widths = np.broadcast_to(np.asarray(half_widths, float), len(profile))
    z, y = profile.T
    if z @ np.roll(y, -1) < y @ np.roll(z, -1):  # clockwise in (z, y)
        z, y, half_widths = z[::-1], y[::-1], half_widths[::-1]
    n = len(z)
    right = np.stack([half_widths, y, z], 1)
    i, j = np.arange(n), np.roll(np.arange(n), -1)
    cap = _triangulate(list(zip(z.tolist(), y.tolist())))
    walls = np.stack([i, j, i + n], 1), np.stack([j, j + n, i + n], 1)
    return np.concatenate([right, right * (-1, 1, 1)]), np.concatenate([cap[:, ::-1], cap + n, *walls])


def _triangulate(points):
    """Triangulate a simple, counter-clockwise polygon of N points (x, y) by ear clipping: faces (N - 2, 3)."""
    def turn(a, b, c):
        (ax, ay), (bx, by), (cx, cy) = points[a], points[b], points[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    left, faces = list(range(len(points))), []
    while len(left) > 3:
        for k in range(len(left)):
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            if turn(a, b, c) > 0 and not any(
                    turn(a, b, p) >= 0 and turn(b, c, p) >= 0 and turn(c, a, p) >= 0
                    for p in left if p not in (a, b, c)):
                faces.append((a, b, c))
                del left[k]
                break
        else:
            raise ValueError("profile is not a simple polygon: no ear is left to cut")
    return np.array(faces + [tuple(left)])


def mirror(mesh):
    """The mirror image of the mesh in the plane x = 0; its faces are reversed, so that they face outwards."""
    vertices, faces = mesh
    return vertices * (-1, 1, 1), faces[:, ::-1]


def lean(mesh, slope, floor, z=0.0):
    """The mesh, moved by `z` and sheared backwards, along -z, by `slope` times the height above `floor`."""
    vertices = mesh[0].copy()
    vertices[:, 2] += z - slope * (vertices[:, 1] - floor)
    return vertices, mesh[1]


def _cross(a, b):
    (ax, ay, az), (bx, by, bz) = a, b  # np.cross takes ten times as long for one vector
    return np.array((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))
