"""Meshes that several test files use. All are closed, with outward right-hand normals."""
import numpy as np


def icosphere(level, radius=1.0, centre=(0, 0, 0)):
    """Vertices (V, 3) float64 and faces (F, 3) int64; 20 * 4^level faces."""
    golden = (1 + 5 ** 0.5) / 2
    vertices = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0),
                (0, -1, golden), (0, 1, golden), (0, -1, -golden), (0, 1, -golden),
                (golden, 0, -1), (golden, 0, 1), (-golden, 0, -1), (-golden, 0, 1)]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4),
             (11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8),
             (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    vertices = [np.array(v) / np.linalg.norm(v) for v in vertices]
    for _ in range(level):
        middles, finer = {}, []

        def middle(a, b):
            key = (min(a, b), max(a, b))
            if key not in middles:
                point = vertices[a] + vertices[b]
                middles[key] = len(vertices)
                vertices.append(point / np.linalg.norm(point))
            return middles[key]

        for a, b, c in faces:
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = finer
    return np.array(vertices) * radius + np.array(centre, float), np.array(faces)


def box(low, high):
    """Vertices (8, 3) float64 and faces (12, 3) int64; faces 2k and 2k + 1 make one side."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    bits = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return np.where(bits, high, low), np.array(faces)


def triangles(mesh):
    """Corners (F, 3, 3) of a (vertices, faces) pair."""
    vertices, faces = mesh
    return vertices[faces]
