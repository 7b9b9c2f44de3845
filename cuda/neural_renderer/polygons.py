"""Split faces of more than three corners into triangles."""
import numpy as np


def split(vertices, corners, sizes):
    """Split polygons into triangles, which keep the order and the orientation of the polygons.

    If a fan from the first corner covers a polygon exactly (it does for every convex one), the polygon becomes that
    fan. Any other polygon is projected along its normal (Newell's) and split by ear clipping with `mapbox_earcut`.

    Parameters
    ----------
    vertices : (V, 3) float64; the vertices that polygons use are finite
    corners : (N,) integer indices into vertices, the polygons one after another
    sizes : (P,) integers of at least 3; their sum is N

    Returns
    -------
    places : (T, 3) positions in `corners`
    owner : (T,) the index of each triangle's polygon, ascending

    Raises
    ------
    ImportError if a polygon needs mapbox_earcut and it is not installed.
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
    """Unit normals (P, 3) of polygons (P, n, 3), and the areas (P, n - 2) of the triangles of their fans. An area is
    negative where the triangle has the opposite orientation."""
    legs = points[:, 1:] - points[:, :1]
    doubled = np.cross(legs[:, :-1], legs[:, 1:])
    normals = doubled.sum(1)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    return normals, np.einsum("pkc,pc->pk", doubled, normals) / 2


def _covered(areas, tolerance=1e-6):
    """Whether a fan covers a polygon without folding back, that is, whether its triangles all have one orientation.
    The tolerance, a fraction of the area, allows for rounded decimals of corners on one line."""
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
        return _fan(len(points))  # all corners lie on one line
    a, b, c = flat[triangles].swapaxes(0, 1)
    turned = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
    triangles[turned] = triangles[turned][:, ::-1]
    return triangles
