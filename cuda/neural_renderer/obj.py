"""Wavefront OBJ: geometry in and out."""
import os

import numpy as np
import torch


def load_obj(filename, normalization=True, texture_size=4, load_texture=False,
             texture_wrapping="REPEAT", use_bilinear=True):
    """Vertices (V, 3) float32 and faces (F, 3) int32 of an OBJ file.

    Polygons become fans; negative indices count from the last vertex read, as the format says.
    `normalization` centres the bounding box and makes its longest side 2.

    Raises
    ------
    FileNotFoundError, or ValueError that names the file and the line.
    """
    if load_texture:
        raise ValueError("load_obj reads geometry only: load_texture=True is not supported")
    vertices, faces, highest = [], [], (-1, 0)
    with open(filename, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            try:
                if words[0] == "v":
                    vertex = [float(w) for w in words[1:4]]
                    if len(vertex) < 3 or not np.isfinite(np.float32(vertex)).all():
                        raise ValueError("a vertex needs three finite numbers")
                    vertices.append(vertex)
                elif words[0] == "f":
                    corners = []
                    for word in words[1:]:
                        index = int(word.split("/")[0])
                        index = index - 1 if index > 0 else len(vertices) + index
                        if index < 0 or index >= 2 ** 31 or word.split("/")[0] == "0":
                            raise ValueError("index out of range")
                        highest = max(highest, (index, number))
                        corners.append(index)
                    if len(corners) < 3:
                        raise ValueError("a face needs three corners")
                    faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
            except ValueError as error:
                raise ValueError(f"{filename}, line {number}: cannot read {line.strip()[:60]!r} ({error})") from None
    if not vertices or not faces:
        raise ValueError(f"{filename} holds {len(vertices)} vertices and {len(faces)} faces; a mesh "
                         "needs both")
    vertices = np.array(vertices, np.float32)
    faces = np.array(faces, np.int64)
    if highest[0] >= len(vertices):
        raise ValueError(f"{filename}, line {highest[1]}: a face names vertex {highest[0] + 1} of "
                         f"{len(vertices)}")
    if normalization:
        low, high = vertices.min(0), vertices.max(0)
        extent = (high - low).max()
        vertices = (vertices - (low + high) / 2) * (2 / extent if extent > 0 else 1)
    return torch.from_numpy(vertices), torch.from_numpy(faces.astype(np.int32))


def save_obj(filename, vertices, faces, textures=None):
    """Write vertices (V, 3) and faces (F, 3) as an OBJ with 8 decimals.

    The file appears whole or not at all.
    """
    if textures is not None:
        raise ValueError("save_obj writes geometry only: textures are not supported")
    vertices, faces = (t.detach().cpu().numpy() if isinstance(t, torch.Tensor) else np.asarray(t)
                       for t in (vertices, faces))
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), got {vertices.shape}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces must have shape (F, 3), got {faces.shape}")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"faces must hold indices into the {len(vertices)} vertices, got "
                         f"{faces.min()} ... {faces.max()}")
    filename = os.fspath(filename)
    beside = filename + ".part"
    with open(beside, "w") as out:
        out.write(f"# {os.path.basename(filename)}\n#\n\ng mesh\n\n")
        out.writelines("v %.8f %.8f %.8f\n" % tuple(v) for v in vertices)
        out.write("\n")
        out.writelines("f %d %d %d\n" % tuple(f) for f in faces + 1)
    os.replace(beside, filename)
