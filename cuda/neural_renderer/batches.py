"""Batches of meshes of different sizes, as lists or packed into one tensor."""

import torch

from .checks import ArrayLike, check_mesh, check_vertices, describe, indices_are_right, integers


def unpack(vertices: torch.Tensor, faces: torch.Tensor, vertex_offsets: ArrayLike, face_offsets: ArrayLike,
           textures: torch.Tensor | None = None) -> tuple[list[torch.Tensor], ...]:
    """Split packed meshes into the lists that `Renderer` takes.

    Parameters
    ----------
    vertices : (sum of V_i, 3) float
    faces : (sum of F_i, 3) integer indices into all of `vertices`: a packed batch is itself a mesh.
    vertex_offsets, face_offsets : B + 1 ascending integers, from 0 to the total number. Mesh i has
        vertices[vertex_offsets[i]:vertex_offsets[i + 1]] and faces[face_offsets[i]:face_offsets[i + 1]].
    textures : (sum of F_i, T, T, T, 3) float, or (sum of V_i, 3) for colours of vertices, optional

    Returns
    -------
    Lists of vertices (V_i, 3) and of faces (F_i, 3), whose indices count from the first vertex of their mesh. With
    `textures`, also a list of textures (F_i, T, T, T, 3) or (V_i, 3). Gradients flow to the packed tensors.
    """
    faces = integers(faces)
    check_mesh("", vertices, faces)
    sizes = [_sizes(name, offsets, len(all_)) for name, offsets, all_ in (
        ("vertex_offsets", vertex_offsets, vertices), ("face_offsets", face_offsets, faces))]
    if len(sizes[0]) != len(sizes[1]):
        raise ValueError(f"vertex_offsets and face_offsets must have the same length, got {len(sizes[0]) + 1} and "
                         f"{len(sizes[1]) + 1} offsets")
    counts, owner = torch.tensor(sizes[0], device=faces.device), torch.arange(len(sizes[1]), device=faces.device)
    owner = owner.repeat_interleave(torch.tensor(sizes[1], device=faces.device), output_size=len(faces))
    faces = faces - (counts.cumsum(0) - counts)[owner, None].to(faces.dtype)
    stray = ((faces < 0) | (faces >= counts[owner, None])).any(1)
    if stray.any():
        raise IndexError(f"faces of mesh {int(owner[stray][0])} must hold only indices of the vertices of that mesh")
    own_vertices, own_faces = vertices.split(sizes[0]), list(faces.split(sizes[1]))
    for own, count in zip(own_faces, sizes[0]):
        indices_are_right(own, count)
    if textures is None:
        return list(own_vertices), own_faces
    of_vertices = isinstance(textures, torch.Tensor) and textures.dim() == 2
    if not isinstance(textures, torch.Tensor) or len(textures) != len(vertices if of_vertices else faces):
        raise ValueError(f"textures must be a tensor of shape ({len(faces)}, T, T, T, 3), or ({len(vertices)}, 3) for "
                         f"colours of vertices, got {describe(textures)}")
    return list(own_vertices), own_faces, list(textures.split(sizes[0 if of_vertices else 1]))


def _sizes(name, offsets, total):
    offsets = offsets.tolist() if hasattr(offsets, "tolist") else list(offsets)
    sizes = [b - a for a, b in zip(offsets, offsets[1:])]
    if not sizes or offsets[0] != 0 or offsets[-1] != total or min(sizes) < 0:
        shown = offsets if len(offsets) < 9 else f"[{offsets[0]}, ... {offsets[-1]}]"
        raise ValueError(f"{name} must ascend from 0 to {total}, got {shown}")
    return sizes


def pad(vertices, faces, textures=None):
    """Pad lists of meshes of different sizes to tensors: vertices (B, V, 3), faces (B, F, 3), and textures
    (B, F, T, T, T, 3) or (B, V, 3), None if none are given.

    A tensor in place of a list holds one mesh per row; faces (F, 3) belong to every mesh. The padding is copies of
    a vertex and faces (0, 0, 0). These faces have no area: they are not drawn and cost nothing.
    """
    if not isinstance(vertices, (list, tuple)):
        check_vertices(vertices)
    count = len(vertices)
    if isinstance(faces, torch.Tensor) and faces.dim() == 2:
        faces = [faces] * count
    members = {}
    for name, value in (("vertices", vertices), ("faces", faces), ("textures", textures)):
        if value is None and name == "textures":
            continue
        if not isinstance(value, (list, tuple, torch.Tensor)) or len(value) != count or not count:
            got = f"{len(value)} of them" if isinstance(value, (list, tuple)) else describe(value)
            raise ValueError(f"{name} must be a list of one tensor for each of {count} meshes, got {got}")
        members[name] = list(value)
    for i, mesh in enumerate(zip(members["vertices"], members["faces"])):
        check_mesh(f"[{i}]", *mesh, like=members["vertices"][0])
    any_vertex = next((v[:1] for v in members["vertices"] if len(v)), None)
    most = {name: max(len(m) for m in own) for name, own in members.items()}

    def filled(vertices):
        missing = most["vertices"] - len(vertices)
        if not missing:
            return vertices
        # Not zeros: a vertex at the eye would make the camera's gradient NaN.
        return torch.cat([vertices, (vertices[:1] if len(vertices) else any_vertex).expand(missing, -1)])

    def with_zeros(tensor, length):
        return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])

    out = [torch.stack([filled(v) for v in members["vertices"]]),
           torch.stack([with_zeros(f.long(), most["faces"]) for f in members["faces"]]), None]
    if "textures" in members:
        like = members["textures"][0]
        owner = "vertices" if isinstance(like, torch.Tensor) and like.dim() == 2 else "faces"
        for i, (texture, own) in enumerate(zip(members["textures"], members[owner])):
            wanted = f"({len(own)}, 3)" if owner == "vertices" else f"({len(own)}, T, T, T, 3), T the same for all"
            if not isinstance(texture, torch.Tensor) or texture.dim() != (2 if owner == "vertices" else 5) or \
                    len(texture) != len(own) or texture.shape[1:] != like.shape[1:]:
                raise ValueError(f"textures[{i}] must be a float tensor of shape {wanted}, got {describe(texture)}")
        out[2] = torch.stack([with_zeros(t, most[owner]) for t in members["textures"]])
    if not torch.compiler.is_compiling():
        indices_are_right(out[1], most["vertices"])
    return tuple(out)
