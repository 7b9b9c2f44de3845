"""The share of faces that cross other faces of their mesh. B = meshes, F = faces, M = pairs of faces."""
import torch

FLAT = 1e-14  # times the cubed longest side: smaller volumes are rounding errors of 0
TOUCH = 1e-10  # times the longest side: faces that share a shorter line only touch
AT_ONCE = 16  # meshes in memory


def self_intersecting(vertices, faces):
    """(B,) share of the faces that cross another face of their mesh: vertices (B, V, 3), faces (F, 3).

    Two faces cross if their interiors share a line. Faces do not cross if they only touch (as neighbours do), lie in
    one plane, or have no area. Computed in double precision.

    A sweep along the longest side finds the pairs whose boxes overlap. Then each face must have corners on both sides
    of the other's plane, and on the line that the two planes share, the intervals inside the two faces must overlap
    (Moeller, "A fast triangle-triangle intersection test", 1997).
    """
    if not torch.isfinite(vertices).all():
        raise ValueError("vertices must be finite")
    corners = vertices.double()[:, faces]  # (B, F, 3, 3)
    return torch.cat([_shares(part) for part in corners.split(AT_ONCE)])


def _shares(corners):
    b, f = corners.shape[:2]
    low, high = corners.amin(2), corners.amax(2)
    sides = high.amax(1) - low.amin(1)  # (B, 3)
    axis = sides.argmax(1)[:, None, None].expand(-1, f, 1)
    order = low.gather(2, axis)[..., 0].argsort(1)
    corners = corners.gather(1, order[..., None, None].expand_as(corners))
    low, high = corners.amin(2), corners.amax(2)
    starts, ends = low.gather(2, axis)[..., 0].contiguous(), high.gather(2, axis)[..., 0].contiguous()
    # Sorted by their starts, faces i < j of a mesh overlap along the axis if j starts before i ends.
    count = (torch.searchsorted(starts, ends, right=True) - torch.arange(1, f + 1, device=starts.device)).flatten()
    first = torch.arange(b * f, device=count.device).repeat_interleave(count)
    second = first + 1 + torch.arange(len(first), device=count.device) - (count.cumsum(0) - count)[first]
    corners, low, high = corners.flatten(0, 1), low.flatten(0, 1), high.flatten(0, 1)
    for k in range(3):
        near = (low[first, k] <= high[second, k]) & (low[second, k] <= high[first, k])
        first, second = first[near], second[near]
    flat = FLAT * sides.amax(1).pow(3).repeat_interleave(f)
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for _ in range(2):  # each against the other's plane
        heights = _heights(corners, normals, flat, first, second)
        across = (heights.amin(1) < 0) & (heights.amax(1) > 0)
        first, second = second[across], first[across]
    line = torch.linalg.cross(normals[first], normals[second])
    (low, high), (other_low, other_high) = (_interval(corners, normals, flat, line, a, b)
                                            for a, b in ((first, second), (second, first)))
    shared = torch.minimum(high, other_high) - torch.maximum(low, other_low)
    cross = shared > TOUCH * line.norm(dim=1) * sides.amax(1)[first // f]
    found = corners.new_zeros(b * f)
    found[first[cross]] = 1
    found[second[cross]] = 1
    return found.view(b, f).mean(1)


def _heights(corners, normals, flat, of, above):
    """(M, 3) six times the signed volume between each corner of the faces `of` and the face `above` below it; 0 if it
    is smaller than `flat`."""
    heights = ((corners[of] - corners[above][:, :1]) * normals[above][:, None]).sum(2)
    return torch.where(heights.abs() <= flat[of][:, None], 0, heights)


def _interval(corners, normals, flat, line, of, through):
    """(minimum (M,), maximum (M,)) of the coordinates along lines (M, 3) at which the outlines of faces `of` meet the
    planes of faces `through`. The faces must have corners on both sides."""
    heights = _heights(corners, normals, flat, of, through)
    # Both intervals of a pair need the same origin: a corner of the face with the smaller number.
    at = ((corners[of] - corners[torch.minimum(of, through)][:, :1]) * line[:, None]).sum(2)
    next_height, next_at = heights.roll(-1, 1), at.roll(-1, 1)
    meets = heights * next_height < 0
    share = heights / torch.where(meets, heights - next_height, 1)
    places = torch.cat([torch.where(meets, at + share * (next_at - at), torch.nan),
                        torch.where(heights == 0, at, torch.nan)], 1)
    return places.nan_to_num(nan=torch.inf).amin(1), places.nan_to_num(nan=-torch.inf).amax(1)
