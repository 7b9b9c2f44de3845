"""Meshes with a look as the renderer draws them: faces with texture cubes, as fine as a picture of some size shows.

A face with a picture on it is cut into pieces of a few pixels (`pieces.cut`), each with a cube of T^3 texels a pixel
apart, so that memory follows what a mesh covers and not T^3 of its largest face. Where colours only run from corner to
corner a cube of 2^3 texels is exact, and one texel is where a face has one colour.

Both sides of every face are drawn. Where a front and a back coincide the front is seen (`BEHIND`): in files made by
SketchUp, ShapeNet's among them, a sheet often is two faces, back to back, of which one has the colours.
"""
import numpy as np
import torch

from . import pieces

BEHIND = 1e-4      # a back's depth is larger by this factor: more than rounding, less than any sheet is thick
FILLED = 0.75      # of the side of a picture that an object's longest side is taken to cover
MEMORY = 256 << 20  # bytes of the cubes of an object at most; coarser ones beyond
COARSEST, FINEST, MOST = 1 / 16, 1 / 128, 100_000  # edges, of the longest side, and number of a cut-out's pieces
A_PIECE = 100      # texels that cost as much as a piece does beside its own
AT_ONCE = 1 << 20  # samples
LEVELS = 12


def textured(vertices, faces, look, size):
    """A mesh and its cubes, for pictures of `size` pixels.

    Parameters
    ----------
    vertices : (V, 3) float tensor
    faces : (F, 3) integer tensor
    look : Look of the F faces

    Returns
    -------
    vertices : (W, 3)
    faces : (P, 3) of pieces of the faces, in their order, turned as they are
    textures : (P, T, T, T, 3) float32. They may go beyond [0, 1] off the plane that is seen.
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
    """What draws the fronts and the backs of faces without fill_back: screen (B, 2W, 3), faces (2P, 3), textures
    (2P, T, T, T, 3) and light (B, 2P, 2, 3), from those of the fronts. Backs lie BEHIND."""
    behind = torch.cat([screen[..., :2], screen[..., 2:] * (1 + BEHIND)], -1)
    return (torch.cat([screen, behind], 1), torch.cat([faces, faces.flip(-1) + screen.shape[1]]),
            torch.cat([textures, textures.transpose(1, 3)]), torch.cat([light, light.flip(2)], 1))


def _first_corners(corners):
    """(F, 3) an order of the corners that begins with the least: two equal faces are then equal to the bit wherever
    they are drawn, and the first one is seen."""
    least = np.zeros(len(corners), np.int64)
    for k in (1, 2):
        other, best = corners[:, k], np.take_along_axis(corners, least[:, None, None], 1)[:, 0]
        different = other != best
        axis = different.argmax(1)[:, None]
        less = np.take_along_axis(other, axis, 1) < np.take_along_axis(best, axis, 1)
        least[(different.any(1)[:, None] & less)[:, 0]] = k
    return (least[:, None] + np.arange(3)) % 3


def _fineness(corners, look):
    """(T, limits (F,) of the edges of pieces in pixels) that take the least work, within MEMORY."""
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
    """(F, 3) lengths of the edges of faces on their pictures, in texels; 0 without a picture."""
    edges = (np.roll(look.uv, -1, 1) - look.uv) * _sizes(look)[look.picture][:, None]
    return np.where((look.picture >= 0)[:, None], np.linalg.norm(edges, axis=2), 0)


def _sizes(look):
    """(pictures + 1, 2) width and height; the last row is for -1."""
    return np.array([picture.pixels.shape[1::-1] for picture in look.pictures] + [(0, 0)], np.float64)


def _texels_a_pixel(corners, look):
    """(F,) texels that lie along a pixel, by the areas of both."""
    a, b, c = corners.swapaxes(0, 1)
    pixels = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    u, v = ((look.uv[:, k] - look.uv[:, 0]) * _sizes(look)[look.picture] for k in (1, 2))
    texels = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    return np.sqrt(np.divide(texels, pixels, out=np.zeros_like(texels), where=pixels > 1e-12))


def _spacing(corners, T):
    """(P,) pixels from texel to texel; no less than half a pixel, for the samples of a picture lie so far apart."""
    longest = np.linalg.norm(np.roll(corners, -1, 1) - corners, axis=2).max(1)
    return np.maximum(longest / max(T - 1, 1), 0.5)


def texel_weights(T):
    """(T^3, 3) barycentric weights of the texels, in the order of memory: those of their feet on the plane that the
    rasteriser reads (`neural_renderer.textures`). Interpolation in the cube is then exact for colours that run evenly;
    feet may lie a little outside of the face."""
    index = np.indices((T, T, T)).reshape(3, -1).T / max(T - 1, 1)
    return index + (1 - index.sum(1, keepdims=True)) / 3


def _read(T):
    """Which texels the cells have through which the plane goes."""
    return np.flatnonzero(np.abs(np.indices((T,) * 3).sum(0).ravel() - (T - 1)) <= 2)


def bake(look, T, texels):
    """(P, T, T, T, 3) float32 of pieces whose neighbouring texels lie `texels` (P,) of their picture apart."""
    weights = texel_weights(T)
    read = _read(T)
    out = np.einsum("tk,pkc->ptc", weights, look.colours).astype(np.float32)
    levels = np.clip(np.log2(np.maximum(texels, 1)).round(), 0, LEVELS).astype(np.int64)
    for key in np.unique(look.picture * (LEVELS + 1) + levels):
        number, level = divmod(int(key), LEVELS + 1)
        if number < 0:
            continue
        mine = np.flatnonzero((look.picture == number) & (levels == level))
        step = max(AT_ONCE // len(read), 1)
        for some in np.split(mine, range(step, len(mine), step)):
            uv = np.einsum("tk,pkc->ptc", weights[read], look.uv[some]).reshape(-1, 2)
            out[some[:, None], read] *= look.pictures[number].at(uv, level)[0].reshape(len(some), -1, 3)
    return out.reshape(-1, T, T, T, 3)


# ---- cut-outs ---------------------------------------------------------------------------------------------------

def cut_out(vertices, faces, look):
    """A mesh (vertices (V, 3), faces (F, 3), Look) without what the alpha of its pictures cuts out.

    Faces that lose a part of themselves are replaced by the pieces that stay: small ones, of edges down to FINEST,
    along the outline, and larger ones inside.
    """
    cutoffs = np.array([picture.cutoff is not None for picture in look.pictures] + [False])
    mine = np.flatnonzero(cutoffs[look.picture])
    if not len(mine):
        return vertices, faces, look
    corners, whole, kept = vertices[faces], np.ones(len(faces), bool), []
    side = np.ptp(corners.reshape(-1, 3), axis=0).max()
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
    """(P, 7) whether the alpha of pictures leaves pieces some points in them, where INSIDE weighs their corners."""
    weights, out = INSIDE / INSIDE.sum(1, keepdims=True), np.empty((len(look), len(INSIDE)), bool)
    for number in np.unique(look.picture):
        picture, own = look.pictures[number], look.picture == number
        alpha = picture.at((weights @ look.uv[own]).reshape(-1, 2))[1]
        out[own] = (alpha >= picture.cutoff).reshape(-1, len(INSIDE))
    return out
