"""A rasteriser in a few lines, and the chiral object of the tests of conventions."""
import numpy as np
from solids import box

BARS = [((-.44, -.30, -.08), (.44, -.16, .08)),   # along x,
        ((.28, -.30, -.08), (.44, .30, .08)),     # up at its right end,
        ((.28, .14, -.08), (.44, .30, .44)),      # far towards the viewer at the top,
        ((-.44, -.30, -.22), (-.28, -.16, .08))]  # and a little away at the left end


def bars():
    """Vertices (32, 3) and faces (48, 3), right-handed, y up."""
    return (np.concatenate([box(*bar)[0] for bar in BARS]),
            np.concatenate([box(*bar)[1] + 8 * k for k, bar in enumerate(BARS)]))


def covered(ndc, faces, size):
    """(size, size) bool: pixels whose centre is inside any triangle of NDC points (V, 2)."""
    centres = (2 * np.arange(size) + 1 - size) / size
    x, y = np.meshgrid(centres, centres[::-1])
    result = np.zeros((size, size), bool)
    for a, b, c in ndc[faces]:
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        result |= np.all([s >= 0 for s in sides], 0) | np.all([s <= 0 for s in sides], 0)
    return result


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def pinhole(points, eye, half_width):
    """NDC of the published, mirroring camera at `eye` that looks at the origin: x = up x z."""
    z = -eye / np.linalg.norm(eye)
    x = np.cross((0, 1, 0), z)
    x /= np.linalg.norm(x)
    relative = points - eye
    return np.stack([relative @ x, relative @ np.cross(z, x)], 1) / (relative @ z * half_width)[:, None]


def eye_at(distance, elevation, azimuth):
    e, a = np.radians(elevation), np.radians(azimuth)
    return distance * np.array([np.cos(e) * np.sin(a), np.sin(e), -np.cos(e) * np.cos(a)])
