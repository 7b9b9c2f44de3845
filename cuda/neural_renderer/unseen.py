"""Warn why an image is blank, and why its gradient is zero: the rasteriser has gradients only for visible faces."""
import warnings

import torch

EMPTY = "there are no faces"
_said: set[str] = set()


def warn_if_blank(vertices, faces, face_index, near, far, fill_back):
    """Warn, once for each cause, if images of faces show none of them."""
    if faces.shape[1] and _blank(face_index):
        _warn(_cause(vertices, faces, near, far, fill_back), "")


def warn_if_unseen(vertices, faces, face_index, near, far, fill_back):
    """Warn of a zero gradient in the same way, also if there are no faces, but not if `warn_if_blank` has."""
    if _blank(face_index):
        _warn(_cause(vertices, faces, near, far, fill_back), ", so the gradient of the rendering is zero")


def _blank(face_index):
    """Whether no sample of any image shows a face (`face_index` is all negative). A few samples usually suffice."""
    return face_index.numel() and not any(part.max() >= 0 for part in (face_index[:1, ::4, ::4], face_index))


def _warn(cause, consequence):
    if cause not in _said:
        _said.add(cause)
        warnings.warn(f"nothing is visible{consequence}: {cause}", RuntimeWarning, stacklevel=4)


def _cause(vertices, faces, near, far, fill_back):
    if not faces.shape[1]:
        return EMPTY
    batch = torch.arange(len(vertices), device=vertices.device)[:, None, None]
    corners = vertices[batch, faces.long()]  # (B, F, 3, 3)
    low, high = corners.amin(2), corners.amax(2)
    left = corners.isfinite().all(-1).all(-1)
    if not left.any():
        return "every face has a corner that is NaN or infinite"
    left &= (high[..., 2] > near) & (low[..., 2] < far)
    if not left.any():
        return f"every face lies in front of near or behind far ({near:g} and {far:g} along the view)"
    left &= ((high[..., :2] >= -1) & (low[..., :2] <= 1)).all(-1) | (low[..., 2] <= 0)  # clipped: may be anywhere
    if not left.any():
        return "every face lies beside the picture; does the camera look at it?"
    a, b, c = corners[..., :2].unbind(2)
    area = (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
    if not (left & (area != 0)).any():
        return "every face has no area on the screen"
    if not fill_back and not (left & (area > 0)).any():
        return "every face shows its back; reverse the faces or use fill_back=True"
    return "no face covers the centre of a pixel between near and far"
