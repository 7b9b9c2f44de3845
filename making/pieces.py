"""Cut faces into smaller ones."""
import numpy as np


def cut(corners, limits):
    """Cut faces into pieces whose edges are at most as long as the limit of their face. The longest edge is halved
    until it is short enough (Rivara, "Algorithms for refining triangular grids suitable for adaptive and multigrid
    techniques", 1984).

    Parameters
    ----------
    corners : (F, 3, 3) float
    limits : (F,) float, above 0; inf leaves a face whole

    Returns
    -------
    owner : (P,) the face of each piece, ascending
    weights : (P, 3, 3) float64, barycentric weights of its corners in that face; the orientation is kept
    """
    done, owner = [], np.arange(len(corners))
    weights = np.tile(np.eye(3), (len(corners), 1, 1))
    while len(owner):
        places = weights @ corners[owner]
        edges = np.linalg.norm(np.roll(places, -1, 1) - places, axis=2)  # edge k goes from corner k to the next one
        longest = edges.argmax(1)
        whole = ~(edges.max(1) > limits[owner])
        done.append((owner[whole], weights[whole]))
        owner, longest = owner[~whole], longest[~whole]
        order = (longest[:, None] + np.arange(3)) % 3
        a, b, c = np.take_along_axis(weights[~whole], order[..., None], 1).swapaxes(0, 1)
        middle = (a + b) / 2
        weights = np.concatenate([np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)])
        owner = np.tile(owner, 2)
    owner, weights = (np.concatenate(parts) for parts in zip(*(done or [(owner, weights)])))
    order = np.argsort(owner, kind="stable")
    return owner[order], weights[order]


def count(corners, limits):
    """An estimate of the number of pieces that `cut` makes."""
    a, b, c = corners.swapaxes(0, 1)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    longest = np.sqrt(np.maximum.reduce([((a - b) ** 2).sum(1), ((b - c) ** 2).sum(1), ((c - a) ** 2).sum(1)]))
    return float(np.where(longest > limits, 1 + 4 * area / limits ** 2 + 2 * longest / limits, 1).sum())
