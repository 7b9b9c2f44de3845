"""Faces of more than three corners, split into triangles."""
import numpy as np


def split(vertices, corners, sizes):
    """Triangles of polygons, in their order, turned as the polygon is.

    A polygon that a fan from its first corner covers exactly (every convex one) becomes that fan. Any other
    is split by ear clipping (`mapbox_earcut`, needed for such alone), seen along its normal (Newell's).

    Parameters
    ----------
    vertices : (V, 3) float64, those of the polygons finite
    corners : (N,) integer indices into vertices, polygon behind polygon
    sizes : (P,) integers of at least 3; their sum is N

    Returns
    -------
    places : (T, 3) positions in `corners`
    owner : (T,) the polygon of each triangle, ascending

    Raises
    ------
    ImportError if a polygon needs mapbox_earcut and it is not there.
    """
    sizes = np.asarray(sizes, np.int64)
    if (sizes == 3).all():
        return np.arange(3 * len(sizes)).reshape(-1, 3), np.arange(len(sizes))
    first = np.cumsum(sizes) - sizes
    places, owners = [], []
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        fans = _fan(size)
        if size > 3:
            points = vertices[corners[first[own, None] + np.arange(size)]]
            normals, areas = _areas(points)
            clipped = ~_covered(areas)
            for k in np.flatnonzero(clipped):
                triangles = _clip_ears(points[k], normals[k])
                places.append(first[own[k]] + triangles)
                owners.append(np.full(len(triangles), own[k]))
            own = own[~clipped]
        places.append((first[own, None, None] + fans).reshape(-1, 3))
        owners.append(np.repeat(own, len(fans)))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(places)[order], owner[order]


def _fan(size):
    k = np.arange(1, size - 1)
    return np.stack([np.zeros_like(k), k, k + 1], 1)


def _areas(points):
    """Unit normals (P, 3) of polygons (P, n, 3), and the areas (P, n - 2) of their fans, negative where a triangle is
    turned the other way."""
    legs = points[:, 1:] - points[:, :1]
    doubled = np.cross(legs[:, :-1], legs[:, 1:])
    normals = doubled.sum(1)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    return normals, np.einsum("pkc,pc->pk", doubled, normals) / 2


def _covered(areas, tolerance=1e-6):
    """Whether a fan covers a polygon without folding back: its triangles are all turned one way. The tolerance, of
    the area, is for corners on one line, whose decimals were rounded."""
    return (areas >= -tolerance * areas.sum(1, keepdims=True)).all(1)


def _clip_ears(points, normal):
    """(T, 3) indices into the corners (n, 3) of one polygon."""
    try:
        import mapbox_earcut
    except ImportError:
        raise ImportError("splitting polygons that are not convex needs mapbox_earcut: pip install "
                          "mapbox_earcut") from None
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    across /= np.linalg.norm(across)
    flat = (points - points.mean(0)) @ np.stack([across, np.cross(normal, across)], 1)
    found = mapbox_earcut.triangulate_float64(np.ascontiguousarray(flat), np.array([len(flat)], np.uint32))
    triangles = np.asarray(found, np.int64).reshape(-1, 3)
    if not len(triangles):
        return _fan(len(points))  # all on one line
    a, b, c = flat[triangles].swapaxes(0, 1)
    turned = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
    triangles[turned] = triangles[turned][:, ::-1]
    return triangles
