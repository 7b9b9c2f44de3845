"""Texture cubes for meshes with a look, as fine as pictures of a given size can show.

A face with a picture is cut into pieces of a few pixels (`pieces.cut`). Each piece has a cube of T^3 texels, which are
a pixel apart, so that the memory is proportional to the area that the mesh covers, not to T^3 of its largest face. A
face whose colours change linearly between its corners needs T = 2, a face of one colour T = 1. A mesh has one T.

Both sides of every face are drawn. If a front and a back coincide, the front is visible (`BEHIND`): in the files of
SketchUp, and so of ShapeNet, a sheet often consists of two faces back to back, and each may have its own material.
"""
import numpy as np
import torch

from . import pieces

BEHIND = 1e-4  # relative increase of the depth of backs, above rounding errors and below the thickness of sheets
FILLED = 0.75  # share of a picture's side that an object's longest side is assumed to cover
MEMORY = 256 << 20  # bytes; an object whose cubes would need more gets coarser ones
COARSEST, FINEST = 1 / 16, 1 / 128  # edges of the pieces of a cut-out, relative to the object's longest side
MOST = 100_000  # pieces of a cut-out at its coarsest; a mesh with more gets longer edges
A_PIECE = 100  # the cost of a piece apart from its texels, in texels
AT_ONCE = 1 << 20  # samples
LEVELS = 12  # of reduced pictures


def textured(vertices, faces, look, size):
    """Cut a mesh into pieces with cubes, for pictures of `size` pixels.

    Parameters
    ----------
    vertices : (V, 3) float tensor
    faces : (F, 3) integer tensor
    look : Look of the F faces

    Returns
    -------
    vertices : (W, 3)
    faces : (P, 3) the pieces, in the order of the faces and with their orientation
    textures : (P, T, T, T, 3) float32. Texels off the visible plane may be outside of [0, 1].
    """
    corners = vertices.numpy().astype(np.float64)[faces.numpy()]
    first = _first_corners(corners)
    corners = np.take_along_axis(corners, first[..., None], 1)
    look = look.pieces(np.arange(len(look)), np.eye(3)[first])
    side = max(float(np.ptp(corners.reshape(-1, 3), axis=0).max(initial=0)), 1e-30)
    corners *= FILLED * size / side  # in pixels
    T, limits = _fineness(corners, look)
    owner, weights = pieces.cut(corners, limits)
    scale = _texels_a_pixel(corners, look)[owner]
    corners = weights @ corners[owner]
    cubes = bake(look.pieces(owner, weights), T, scale * _spacing(corners, T))
    points = (corners * (side / (FILLED * size))).reshape(-1, 3).astype(np.float32)
    points, numbers = np.unique(points.view("V12").ravel(), return_inverse=True)
    return (torch.from_numpy(points.view(np.float32).reshape(-1, 3)).to(vertices),
            torch.from_numpy(numbers.reshape(-1, 3)), torch.from_numpy(cubes))


def both_sides(screen, faces, textures, light):
    """Add the backs to the fronts of faces, for drawing without fill_back: from screen (B, W, 3), faces (P, 3),
    textures (P, T, T, T, 3) and light (B, P, 2, 3) the same with 2W vertices and 2P faces. The backs are moved away by
    BEHIND."""
    behind = torch.cat([screen[..., :2], screen[..., 2:] * (1 + BEHIND)], -1)
    return (torch.cat([screen, behind], 1), torch.cat([faces, faces.flip(-1) + screen.shape[1]]),
            torch.cat([textures, textures.transpose(1, 3)]), torch.cat([light, light.flip(2)], 1))


def _first_corners(corners):
    """An order (F, 3) of the corners that begins with the lowest one. Equal faces then have bit-equal depths, and the
    first of them is visible."""
    least = np.zeros(len(corners), np.int64)
    for k in (1, 2):
        other, best = corners[:, k], np.take_along_axis(corners, least[:, None, None], 1)[:, 0]
        different = other != best
        axis = different.argmax(1)[:, None]
        less = np.take_along_axis(other, axis, 1) < np.take_along_axis(best, axis, 1)
        least[(different.any(1)[:, None] & less)[:, 0]] = k
    return (least[:, None] + np.arange(3)) % 3


def _fineness(corners, look):
    """(T, longest edges (F,) of the pieces in pixels): the choice that needs the least work within MEMORY."""
    varied = _texels(look).max(1) > 0.01
    if not varied.any():
        runs = np.ptp(look.colours, axis=1).max() > 0
        return (2 if runs and 2 * 8 * 12 * len(look) < MEMORY else 1), np.full(len(look), np.inf)
    if 2 * 8 * 12 * len(look) > MEMORY:
        return 1, np.full(len(look), np.inf)
    coarser = 1
    while True:
        found = []
        for T in (2, 4, 8):
            limits = np.where(varied, (T - 1) * coarser, np.inf)
            count = pieces.count(corners, limits)
            if 2 * 12 * T ** 3 * count <= MEMORY:
                found.append((count * (len(_read(T)) + A_PIECE), T, limits))
        if found:
            return min(found, key=lambda one: one[0])[1:]
        coarser *= 2


def _texels(look):
    """Lengths (F, 3) of the edges on the pictures in texels; 0 for faces without a picture."""
    edges = (np.roll(look.uv, -1, 1) - look.uv) * _sizes(look)[look.picture][:, None]
    return np.where((look.picture >= 0)[:, None], np.linalg.norm(edges, axis=2), 0)


def _sizes(look):
    """Width and height (pictures + 1, 2); the last row is for faces without a picture (-1)."""
    return np.array([picture.pixels.shape[1::-1] for picture in look.pictures] + [(0, 0)], np.float64)


def _texels_a_pixel(corners, look):
    """Texels per pixel (F,), from the areas on the picture and in pixels."""
    a, b, c = corners.swapaxes(0, 1)
    pixels = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    u, v = ((look.uv[:, k] - look.uv[:, 0]) * _sizes(look)[look.picture] for k in (1, 2))
    texels = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    return np.sqrt(np.divide(texels, pixels, out=np.zeros_like(texels), where=pixels > 1e-12))


def _spacing(corners, T):
    """Distance (P,) of the texels of a cube in pixels, but at least half a pixel, the distance of the samples."""
    longest = np.linalg.norm(np.roll(corners, -1, 1) - corners, axis=2).max(1)
    return np.maximum(longest / max(T - 1, 1), 0.5)


def texel_weights(T):
    """Barycentric weights (T^3, 3) of the texels, in memory order: those of their projections onto the plane of the
    cube that the rasteriser reads (`neural_renderer.textures`). With these, interpolation in the cube is exact for
    colours that are linear on the face. Projections may be slightly outside of the face."""
    index = np.indices((T, T, T)).reshape(3, -1).T / max(T - 1, 1)
    return index + (1 - index.sum(1, keepdims=True)) / 3


def _read(T):
    """Indices of the texels that interpolation on the plane can read."""
    return np.flatnonzero(np.abs(np.indices((T,) * 3).sum(0).ravel() - (T - 1)) <= 2)


def bake(look, T, texels):
    """Cubes (P, T, T, T, 3) float32 of pieces. `texels` (P,) is the distance of neighbouring texels of a cube, in
    pixels of the picture; the picture is reduced accordingly."""
    weights = texel_weights(T)
    read = _read(T)
    out = (weights @ look.colours).astype(np.float32)
    levels = np.clip(np.log2(np.maximum(texels, 1)).round(), 0, LEVELS).astype(np.int64)
    for key in np.unique(look.picture * (LEVELS + 1) + levels):
        number, level = divmod(int(key), LEVELS + 1)
        if number < 0:
            continue
        mine = np.flatnonzero((look.picture == number) & (levels == level))
        step = max(AT_ONCE // len(read), 1)
        for some in np.split(mine, range(step, len(mine), step)):
            uv = (weights[read] @ look.uv[some]).reshape(-1, 2)
            out[some[:, None], read] *= look.pictures[number].at(uv, level)[0].reshape(len(some), -1, 3)
    return out.reshape(-1, T, T, T, 3)


# ---- cut-outs ---------------------------------------------------------------------------------------------------

def cut_out(vertices, faces, look):
    """Remove the transparent parts of a mesh: vertices (V, 3), faces (F, 3) and `Look`.

    A face that is partly transparent is replaced by its opaque pieces: small ones (FINEST) along the outline, larger
    ones elsewhere.
    """
    cutoffs = np.array([picture.cutoff is not None for picture in look.pictures] + [False])
    mine = np.flatnonzero(cutoffs[look.picture])
    if not len(mine):
        return vertices, faces, look
    corners, whole, kept = vertices[faces], np.ones(len(faces), bool), []
    side = np.ptp(corners.reshape(-1, 3), axis=0).max()
    if not 0 < side < np.inf:
        return vertices, faces, look
    limit, finest = COARSEST * side, FINEST * side
    while pieces.count(corners[mine], np.full(len(mine), limit)) > MOST:
        limit, finest = 2 * limit, 2 * finest
    owner, weights = pieces.cut(corners[mine], np.full(len(mine), limit))
    owner = mine[owner]
    while True:
        there = _opaque(look.pieces(owner, weights))
        inside, outside = there.all(1), ~there.any(1)
        if not kept:
            whole[owner[~inside]] = False
        stays = inside | (there.mean(1) >= 0.5 if limit <= finest else False)
        kept.append((owner[stays], weights[stays]))
        mixed = ~inside & ~outside
        if limit <= finest or not mixed.any():
            break
        limit /= 2
        owner, weights = owner[mixed], weights[mixed]
        parent, inner = pieces.cut(weights @ corners[owner], np.full(len(owner), limit))
        owner, weights = owner[parent], inner @ weights[parent]
    owner, weights = (np.concatenate(parts) for parts in zip(*kept))
    owner, weights = owner[~whole[owner]], weights[~whole[owner]]
    new = (weights @ corners[owner]).reshape(-1, 3)
    return (np.concatenate([vertices, new]),
            np.concatenate([faces[whole], len(vertices) + np.arange(len(new)).reshape(-1, 3)]),
            look.some(whole).joined(look.pieces(owner, weights)))


INSIDE = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4], [1, 1, 0], [0, 1, 1], [1, 0, 1]], np.float64)


def _opaque(look):
    """Whether the pictures are opaque (P, 7) at the points of each piece whose barycentric weights are INSIDE."""
    weights, out = INSIDE / INSIDE.sum(1, keepdims=True), np.empty((len(look), len(INSIDE)), bool)
    for number in np.unique(look.picture):
        picture, own = look.pictures[number], look.picture == number
        alpha = picture.at((weights @ look.uv[own]).reshape(-1, 2))[1]
        out[own] = (alpha >= picture.cutoff).reshape(-1, len(INSIDE))
    return out
