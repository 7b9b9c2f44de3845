"""Shared code of the examples: a teapot, command-line options, and GIF files."""
import argparse
import math
import os

import numpy as np
import torch
from PIL import Image

# (radius, height) of the teapot's outline, from the centre of its foot to the top of the knob on its lid.
PROFILE = [(0, -0.62), (0.42, -0.62), (0.46, -0.58), (0.62, -0.4), (0.72, -0.15), (0.7, 0.1), (0.58, 0.32),
           (0.46, 0.43), (0.45, 0.47), (0.36, 0.54), (0.2, 0.6), (0.08, 0.63), (0.07, 0.68), (0.12, 0.74),
           (0.09, 0.8), (0, 0.82)]


def teapot():
    """Vertices (1316, 3) float32 within [-1.2, 1.2] and faces (2464, 3): right-handed, y up, spout on +x."""
    body = _lathe(_along(PROFILE, 31), 32)
    handle = _tube([(-0.55, 0.3), (-0.85, 0.36), (-1.08, 0.24), (-1.08, 0), (-0.9, -0.22), (-0.6, -0.32)],
                   [0.06] * 6, 8, 21)
    spout = _tube([(0.5, -0.3), (0.75, -0.2), (0.88, 0.08), (0.98, 0.3), (1.16, 0.4)],
                  [0.2, 0.16, 0.1, 0.075, 0.08], 12, 13)
    vertices, faces = [], []
    for own_vertices, own_faces in (body, handle, spout):
        faces.append(own_faces + sum(map(len, vertices)))
        vertices.append(own_vertices)
    return torch.tensor(np.concatenate(vertices)).float(), torch.tensor(np.concatenate(faces))


def _along(points, count):
    """`count` points at equal distances along a polyline of points (N, D)."""
    points = np.array(points, float)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return np.stack([np.interp(np.linspace(0, at[-1], count), at, column) for column in points.T], 1)


def _rings(rings, closed):
    """Vertices and faces of the surface through rings (R, N, 3). In a `closed` surface
    the first and the last ring are poles: their points coincide."""
    count, sides = rings.shape[:2]
    vertices, faces = rings.reshape(-1, 3), []
    for r in range(count - 1):
        for k in range(sides):
            a, b = r * sides + k, r * sides + (k + 1) % sides
            c, d = a + sides, b + sides
            if not (closed and r == 0):
                faces.append((a, d, b))
            if not (closed and r == count - 2):
                faces.append((a, c, d))
    return vertices, np.array(faces)


def _lathe(profile, sides):
    turn = 2 * math.pi * np.arange(sides) / sides
    radius, height = profile.T
    rings = np.stack([radius[:, None] * np.cos(turn), np.repeat(height[:, None], sides, 1),
                      -radius[:, None] * np.sin(turn)], -1)
    return _rings(rings[::-1], closed=True)


def _tube(path, radii, sides, count):
    """A tube around a path in the plane z = 0."""
    path = _along(np.column_stack([path, radii]), count)
    path, radii = path[:, :2], path[:, 2]
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    turn = 2 * math.pi * np.arange(sides) / sides
    across = np.stack([-ahead[:, 1], ahead[:, 0]], 1)[:, None] * np.cos(turn)[:, None]
    rings = np.concatenate([path[:, None] + radii[:, None, None] * across,
                            radii[:, None, None] * np.broadcast_to(np.sin(turn)[:, None], (count, sides, 1))], 2)
    return _rings(rings[::-1], closed=False)


def options(description, out, steps, size):
    """Parse the command line of an example: --out, --steps, --size."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default=out, help="GIF to write")
    parser.add_argument("--steps", type=int, default=steps, help="steps of the optimiser; in example1 pictures")
    parser.add_argument("--size", type=int, default=size, help="width and height of a picture in pixels")
    given = parser.parse_args()
    if min(given.steps, given.size) < 1:
        parser.error("--steps and --size must be at least 1")
    if not os.path.isdir(os.path.dirname(given.out) or "."):
        parser.error(f"--out={given.out}: there is no such folder")
    return given


def write_gif(path, frames, milliseconds=60):
    """Write pictures (3, H, W) or (H, W) in [0, 1] as a GIF that repeats endlessly."""
    pictures = []
    for frame in frames:
        frame = frame.detach().cpu().clamp(0, 1)
        frame = frame.expand(3, -1, -1) if frame.dim() == 2 else frame
        pictures.append(Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).contiguous().numpy()))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    print(f"wrote {path}: {len(pictures)} pictures")
