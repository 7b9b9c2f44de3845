"""The rasteriser and its gradient in plain NumPy, float64: slow and short. It defines what the kernels must compute.

It follows Neural 3D Mesh Renderer (Kato, Ushiku, Harada, CVPR 2018) step by step and shares no code
with the compiled kernels; the tests compare the two.

Convention
----------
NDC is [-1, 1]^2, x right, y up. Pixel coordinates are p = (ndc * size + size - 1) / 2, y still up.
Images have row 0 at the top, so row = height - 1 - y.
"""
import numpy as np


def rasterize_forward(vertices, faces, textures, colours, light, background, *, height, width, samples, near,
                      far, eps, fill_back, perspective, rgb, alpha, depth):
    """Draw a batch of meshes.

    Parameters
    ----------
    vertices : (B, V, 3) float64, NDC x and y, and depth z.
    faces : (B, F, 3) int.
    textures : (B, F, T, T, T, 3) or None.
    colours : (B, V, 3) of vertices, or None.
    light : (B, F, 2, 3) or None. Factor for the front and the back of each face.
    background : (B, 3) or None.
    samples : 1, or 2 for anti-aliasing.
    perspective : bool. Whether x and y were divided by z. If so, and near >= 0, vertices with z <= 0 are behind the
        eye, and faces that reach there are clipped.
    rgb, alpha, depth : bool. Which images to draw.

    Returns
    -------
    dict with rgb (B, 3, H, W), alpha (B, H, W), depth (B, H, W), None for images not asked for;
    face_index (B, sH, sW) int32, -1 where nothing is drawn, F + face for a back;
    rgb_samples (B, sH, sW, 3) or None.
    """
    size = (samples * height, samples * width)
    index, colour, z = [], [], []
    for b in range(len(vertices)):
        screen = _screen_faces(vertices[b], faces[b], size, fill_back, near if perspective else -1)
        index_b, z_b = _visible(screen, size, near, far, len(faces[b]))
        index.append(index_b)
        z.append(z_b)
        if rgb:
            colour.append(_shade(screen, index_b, None if textures is None else textures[b],
                                 None if colours is None else colours[b], None if light is None else light[b],
                                 background[b], eps))
    index = np.array(index, np.int32).reshape(-1, *size)
    out = {"face_index": index, "rgb": None, "alpha": None, "depth": None, "rgb_samples": None}
    if rgb:
        out["rgb_samples"] = np.array(colour).reshape(-1, *size, 3)
        out["rgb"] = _average(np.moveaxis(out["rgb_samples"], -1, 1), samples)
    if alpha:
        out["alpha"] = _average((index >= 0).astype(np.float64), samples)
    if depth:
        out["depth"] = _average(np.array(z).reshape(-1, *size), samples)
    return out


def rasterize_backward(vertices, faces, textures, colours, light, background, face_index, rgb_samples,
                       grad_rgb, grad_alpha, grad_depth, *, height, width, samples, near, far, eps,
                       fill_back, perspective):
    """Gradients of (vertices, textures, colours, light) as float64 arrays, from the gradients of the images.

    The gradient of an unused image is None. The result has None where `textures`, `colours` or `light` is
    None.
    """
    size = (samples * height, samples * width)
    grad_vertices = np.zeros(vertices.shape)
    grad_textures = None if textures is None else np.zeros(textures.shape)
    grad_colours = None if colours is None else np.zeros(colours.shape)
    grad_light = None if light is None else np.zeros(light.shape)

    def spread(image):  # to the samples of each pixel
        if image is None:
            return None
        return image.repeat(samples, -2).repeat(samples, -1) / samples ** 2

    g_rgb, g_alpha, g_depth = spread(grad_rgb), spread(grad_alpha), spread(grad_depth)
    for b in range(len(vertices)):
        screen = _screen_faces(vertices[b], faces[b], size, fill_back, near if perspective else -1)
        # Channels last, y up.
        shown = face_index[b][::-1]
        values, gradients = [], []
        if g_rgb is not None:
            values += list(np.moveaxis(rgb_samples[b][::-1], -1, 0))
            gradients += list(g_rgb[b][:, ::-1])
        if g_alpha is not None:
            values.append((shown >= 0).astype(np.float64))
            gradients.append(g_alpha[b][::-1])
        if values:
            values, gradients = np.stack(values, -1), np.stack(gradients, -1)
            for order in np.unique(shown[shown >= 0]):
                _edges_backward(screen[order], order, shown, values, gradients, eps, grad_vertices[b])
        for row, x in np.argwhere(face_index[b] >= 0):
            face = screen[face_index[b, row, x]]
            y = size[0] - 1 - row
            if g_rgb is not None and colours is not None:
                g = g_rgb[b, :, row, x]
                side = (face.face, int(face.reversed))
                weight = face.weights(x, y)
                sample = weight @ colours[b, face.corners]
                factor = 1.0 if light is None else light[(b, *side)]
                np.add.at(grad_colours[b], face.corners, weight[:, None] * (factor * g))
                if light is not None:
                    grad_light[(b, *side)] += sample * g
                _weights_backward(face, x, y, size, colours[b, face.corners] @ (factor * g), grad_vertices[b])
            elif g_rgb is not None:
                index, weight = _texels(face, x, y, len(textures[b, 0]), eps)
                g = g_rgb[b, :, row, x]
                side = (face.face, int(face.reversed))
                sample = weight @ textures[(b, face.face, *index)]
                factor = 1.0 if light is None else light[(b, *side)]
                np.add.at(grad_textures[b, face.face], tuple(index), weight[:, None] * (factor * g))
                if light is not None:
                    grad_light[(b, *side)] += sample * g
            if g_depth is not None and g_depth[b, row, x]:
                _depth_backward(face, x, y, size, g_depth[b, row, x], grad_vertices[b])
    return grad_vertices, grad_textures, grad_colours, grad_light


class _ScreenFace:
    """The visible side of a face, with its vertices counter-clockwise in pixel coordinates.

    `outline` holds the points (n, 2) that bound the face on the screen. `mix` holds for each point the weights (3,)
    with which it is a mix of the vertices in camera space. The points are the vertices, unless the face reaches behind
    the eye.
    """

    def __init__(self, face, corners, points, z, reversed_, clip_plane=None):
        self.face, self.corners, self.reversed = face, corners, reversed_
        self.p, self.z = points, z  # (3, 2) and (3,)
        self.clipped = clip_plane is not None
        self.plane = clip_plane
        self.outline, self.mix = points, np.eye(3)
        if self.clipped:
            mix, outline = [], []
            for a, b in ((0, 1), (1, 2), (2, 0)):
                if z[a] > clip_plane:
                    mix.append(np.eye(3)[a])
                    outline.append(points[a])
                if (z[a] > clip_plane) != (z[b] > clip_plane):
                    t = (clip_plane - z[a]) / (z[b] - z[a])
                    mix.append((1 - t) * np.eye(3)[a] + t * np.eye(3)[b])
                    with np.errstate(all="ignore"):
                        outline.append(((1 - t) * (points[a] * z[a]) + t * (points[b] * z[b])) / clip_plane)
            self.mix, self.outline = np.array(mix), np.array(outline)

    def covers(self, e):
        """Whether samples with the edge functions `e` lie inside the face and in front of the eye."""
        if not self.clipped:
            return (e >= 0).all(0)
        return ((e.T / self.z).T * e.sum(0) >= 0).all(0)

    def weights(self, x, y):
        """Perspective-correct barycentric weights (3,) at a sample."""
        w = self.edge_functions(float(x), float(y)) / self.z
        return w / w.sum()

    def move(self, point, axis, gradient, size, grad_vertices):
        """Add the gradient of a point of the outline, in NDC, to the vertices of which it is a mix."""
        if np.count_nonzero(self.mix[point]) == 1:
            grad_vertices[self.corners[self.mix[point].argmax()], axis] += gradient
            return
        # The point is sum(m_k z_k x_k) / plane, where m makes sum(m_k z_k) the plane.
        (a, b), m, x = np.flatnonzero(self.mix[point]), self.mix[point], (2 * self.p[:, axis] - size + 1) / size
        dm_b = {a: -m[a] / (self.z[b] - self.z[a]), b: -m[b] / (self.z[b] - self.z[a])}  # of m_b by each z
        for k in (a, b):
            grad_vertices[self.corners[k], axis] += gradient * m[k] * self.z[k] / self.plane
            grad_vertices[self.corners[k], 2] += gradient / self.plane * (
                m[k] * x[k] + dm_b[k] * (x[b] * self.z[b] - x[a] * self.z[a]))

    def edge_functions(self, x, y):
        """(3, ...) values, all >= 0 inside. Divided by their sum they are the barycentric weights."""
        out = []
        for k in range(3):
            a, b = self.p[(k + 1) % 3], self.p[(k + 2) % 3]
            out.append((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))
        return np.array(out)

    def depth(self, e):
        inverse = 1.0 / self.z
        return (e[0] + e[1] + e[2]) / (e[0] * inverse[0] + e[1] * inverse[1] + e[2] * inverse[2])


def _screen_faces(vertices, faces, size, fill_back, near):
    """{draw order: _ScreenFace} of all sides that face the camera."""
    scale = np.array([size[1], size[0]], np.float64)
    out = {}
    for i, corners in enumerate(faces):
        v = vertices[corners]
        if not np.isfinite(v).all():
            continue
        p, z = (v[:, :2] * scale + scale - 1) * 0.5, v[:, 2]
        u, w = p[1] - p[0], p[2] - p[0]
        area = u[0] * w[1] - w[0] * u[1]
        plane = None
        if near >= 0 and (z <= 0).any():  # behind the eye
            plane = near if near > 0 else 1e-6 * z.max()
            if not z.max() > plane or (z == 0).any():
                continue
            area *= np.sign(z).prod()  # each corner behind mirrors the face on the screen
        if area > 0:
            out[i] = _ScreenFace(i, corners, p, z, False, plane)
        elif area < 0 and fill_back:
            out[len(faces) + i] = _ScreenFace(i, corners[::-1], p[::-1], z[::-1], True, plane)
    return out


def _visible(screen, size, near, far, num_faces):
    """The nearest face and its depth at every sample. Depths are compared as float32; the first face wins a tie."""
    index = np.full(size, -1, np.int32)
    nearest = np.full(size, np.inf, np.float32)
    depth = np.full(size, float(far))
    x, y = np.arange(size[1], dtype=np.float64), np.arange(size[0], dtype=np.float64)
    for order in sorted(screen):
        face = screen[order]
        low, high = face.outline.min(0), face.outline.max(0)
        if face.clipped and np.isfinite(face.outline).all():
            low, high = low - 1e-3, high + 1e-3
        elif face.clipped:  # the mixed coordinates overflowed
            low, high = (-1, -1), (np.inf, np.inf)
        columns = np.flatnonzero((x >= low[0]) & (x <= high[0]))
        lines = np.flatnonzero((y >= low[1]) & (y <= high[1]))
        if not len(columns) or not len(lines):
            continue
        box = np.ix_(size[0] - 1 - lines, columns)
        with np.errstate(all="ignore"):
            e = face.edge_functions(x[columns][None, :], y[lines][:, None])
            z = face.depth(e)
            wins = face.covers(e) & (z > near) & (z < far) & (z.astype(np.float32) < nearest[box])
        nearest[box] = np.where(wins, z, nearest[box]).astype(np.float32)
        depth[box] = np.where(wins, z, depth[box])
        index[box] = np.where(wins, order, index[box])
    return index, depth


def _texels(face, x, y, T, eps):
    """The eight texels around a sample: indices (3, 8) into the cube, weights (8,)."""
    e = face.edge_functions(float(x), float(y))
    position = e / e.sum() * (T - 1) * (face.depth(e) / face.z)
    position = np.clip(position, 0, max(T - 1 - eps, 0))
    if face.reversed:
        position = position[::-1]  # axis k of the cube belongs to corner k as stored
    cell = position.astype(int)
    fraction = position - cell
    up = np.array([[n >> axis & 1 for n in range(8)] for axis in range(3)])
    weight = np.where(up, fraction[:, None], 1 - fraction[:, None]).prod(0)
    return np.minimum(cell[:, None] + up, T - 1), weight


def _shade(screen, index, textures, colours, light, background, eps):
    image = np.broadcast_to(background, index.shape + (3,)).astype(np.float64)
    for row, x in np.argwhere(index >= 0):
        face = screen[index[row, x]]
        y = len(index) - 1 - row
        if colours is not None:
            colour = face.weights(x, y) @ colours[face.corners]
        else:
            texel, weight = _texels(face, x, y, len(textures[0]), eps)
            colour = weight @ textures[(face.face, *texel)]
        image[row, x] = colour if light is None else colour * light[face.face, int(face.reversed)]
    return image


def _average(image, samples):
    *head, height, width = image.shape
    blocks = image.reshape(*head, height // samples, samples, width // samples, samples)
    return blocks.mean((-3, -1))


def _edges_backward(face, order, shown, values, gradients, eps, grad_vertices):
    """The gradient of section 3 of the paper, for one face. Arrays are indexed [y, x], y up."""
    for a in range(len(face.outline)):
        b = (a + 1) % len(face.outline)
        for axis in (0, 1):  # the direction in which the edge may move: x, y
            a0, a1 = face.outline[a][1 - axis], face.outline[a][axis]
            b0, b1 = face.outline[b][1 - axis], face.outline[b][axis]
            if a0 == b0:
                continue
            direction = 1 if (a0 < b0) == (axis == 0) else -1
            # Returns line d0 of an array, along x or along y.
            lines = (lambda array, d0: array[d0]) if axis == 0 else (lambda array, d0: array[:, d0])
            count, length = shown.shape if axis == 0 else shown.shape[::-1]
            first, last = np.ceil(min(a0, b0)), np.floor(max(a0, b0))
            for d0 in range(int(np.clip(first, 0, count)), int(np.clip(last, -1, count - 1)) + 1):
                cross = a1 + (b1 - a1) * (d0 - a0) / (b0 - a0)
                inside = np.floor(cross) if direction > 0 else np.ceil(cross)
                if not (0 <= inside < length and 0 <= inside + direction < length):
                    continue
                inside = int(inside)
                outside = inside + direction
                line_shown, value, gradient = (lines(x, d0) for x in (shown, values, gradients))
                moves = []  # (samples that would change, the value they would take)
                if line_shown[inside] == order:
                    beyond = np.arange(outside, length) if direction > 0 else np.arange(outside + 1)
                    moves.append((beyond, value[inside]))
                within = np.arange(inside + 1) if direction > 0 else np.arange(inside, length)
                moves.append((within[line_shown[within] == order], value[outside]))
                lever_a = (b0 - d0) / (b0 - a0)
                for d1, other in moves:
                    gain = ((value[d1] - other) * gradient[d1]).sum(-1)
                    d1, gain = d1[gain > 0], gain[gain > 0]
                    for end, lever in ((a, lever_a), (b, 1 - lever_a)):
                        if lever == 0:
                            continue
                        distance = 2.0 * (d1 - cross) / length / lever
                        distance = np.where(distance > 0, distance + eps, distance - eps)
                        face.move(end, axis, -(gain / distance).sum(), length, grad_vertices)


def _depth_backward(face, x, y, size, gradient, grad_vertices):
    """z = 1 / sum(w_k / z_k); moving corner j by d changes w_k at a fixed sample by -w_j grad(w_k).d"""
    e = face.edge_functions(float(x), float(y))
    w, z = e / e.sum(), face.depth(e)
    slope = np.zeros(2)  # of 1/z, in pixels
    for k in range(3):
        a, b = face.p[(k + 1) % 3], face.p[(k + 2) % 3]
        slope += np.array([-(b[1] - a[1]), b[0] - a[0]]) / e.sum() / face.z[k]
    for k, corner in enumerate(face.corners):
        grad_vertices[corner, :2] += gradient * z ** 2 * w[k] * slope * np.array([size[1], size[0]]) / 2
        grad_vertices[corner, 2] += gradient * z ** 2 * w[k] / face.z[k] ** 2


def _weights_backward(face, x, y, size, pull, grad_vertices):
    """Add the gradient of weights @ pull, pull (3,), to the vertices. Depth is the case pull = z."""
    e, b = face.edge_functions(float(x), float(y)), face.weights(x, y)
    more = (pull - b @ pull) / face.z
    slope = np.zeros(2)
    for k in range(3):
        p, q = face.p[(k + 1) % 3], face.p[(k + 2) % 3]
        slope += np.array([-(q[1] - p[1]), q[0] - p[0]]) / e.sum() * more[k]
    for k, corner in enumerate(face.corners):
        scale = -face.depth(e) * e[k] / e.sum()
        grad_vertices[corner, :2] += scale * slope * np.array([size[1], size[0]]) / 2
        grad_vertices[corner, 2] += scale * more[k] / face.z[k]
