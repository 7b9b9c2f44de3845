"""Losses from prior knowledge of shapes: a surface has an inside that no camera sees, and most shapes are symmetric.

B = batch, V = vertices, F = faces, K = pose bins, S = side of the silhouettes.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

import neural_renderer as nr
from errors import InputError


# ---- inside and outside -----------------------------------------------------------------------------

def orientation(vertices, faces):
    """1 if the faces of a closed mesh, (V, 3) and (F, 3), are counterclockwise seen from outside, -1 if clockwise."""
    return -1 if float(signed_volume(vertices[None].double(), faces)) < 0 else 1


def signed_volume(vertices, faces):
    """(B,) volume of closed meshes (B, V, 3) with faces (F, 3); negative for a mesh that is inside out."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    return (a * torch.linalg.cross(b, c)).sum((1, 2)) / 6


def pressure_loss(vertices, faces, outward=1):
    """Internal pressure (Kato & Harada 2019): minus the sum over faces of centre . unit normal, mean over the batch.

    The normals are treated as constants, so every face is pushed along its own outward normal with the same force,
    whatever its size. A face without area has no normal and is not pushed.

    outward : the `orientation` of the template.
    """
    v = vertices.permute(1, 2, 0).contiguous()  # (V, 3, B): indexing a vertex copies one contiguous run
    a, b, c = (v[faces[:, k]] for k in range(3))
    with torch.no_grad():
        normals = torch.linalg.cross(b - a, c - a, dim=1)
        normals = normals * (outward / 3) / normals.square().sum(1, keepdim=True).clamp_min(1e-24).sqrt()
    return -((a + b + c) * normals).sum() / len(vertices)


def random_rotations(count, generator=None):
    """(count, 3, 3) rotations on the CPU, uniform over all rotations (quaternions of Marsaglia 1972)."""
    quaternions = normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64))
    w, x, y, z = quaternions.unbind(1)
    return torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1).view(count, 3, 3).float()


def turned_views(dataset, cameras, poses):
    """(rotations (B, 3, 3), poses): random rotations of the shapes, so that cameras see them from any direction."""
    return random_rotations(len(cameras)).to(cameras.device, non_blocking=True), poses


def fronts_and_backs(screens, faces, image_size, flipped):
    """Draw the faces that are seen from outside and those seen from inside, each alone; returns the depths of both,
    (B, S, S), 100 where there are no faces.

    screens : (B, V, 3), vertices transformed by a dataset's `for_pictures`.
    flipped : whether a face seen from outside is clockwise on the screen. This is so if either the camera mirrors or
        the template's faces are clockwise, but not both.
    """
    renderer = nr.Renderer(image_size, camera_mode="none", anti_aliasing=False, fill_back=False)
    fronts, backs = (faces.flip(1), faces) if flipped else (faces, faces.flip(1))
    return renderer.render_depth(screens, fronts), renderer.render_depth(screens, backs)


def front_loss(fronts, backs, far=100.0):
    """Mean over all pixels of max(0, depth of the fronts - depth of the backs); depths (B, S, S), each drawn alone.

    In a closed surface that is not inside out, a front lies before any back. Where a surface is inside out, the
    gradient moves front and back through each other. Pixels that show only one of them, at the rim, count 0.
    """
    both = (fronts < far) & (backs < far)
    return torch.where(both, (fronts - backs).clamp_min(0), 0).mean()


def fronts_of_step(step):
    """`front_loss` of a `losses.Step`, with each shape seen from a random direction."""
    turned = step.vertices @ step.views["front"].cameras
    screens = step.dataset.for_pictures(turned, step.cameras)
    return front_loss(*fronts_and_backs(screens, step.faces, step.silhouettes.shape[-1],
                                        step.dataset.mirrors != (step.topology.outward < 0)))


# ---- what no camera faces -------------------------------------------------------------------------------

@dataclass
class Sides:
    """From where the cameras of a training split look."""
    cameras: torch.Tensor  # (K, 3) unit vectors towards cameras; those towards any other are near one of them
    away: torch.Tensor     # (3,) unit vector against their mean


def directions(dataset, cameras):
    """Unit vectors (B, 3), in the renderer's frame, from the origin towards cameras (B, ...): against the gradient of
    the depth."""
    with torch.enable_grad():
        origin = torch.zeros(len(cameras), 1, 3, device=cameras.device, requires_grad=True)
        depth = dataset.project(origin, cameras)[..., 2].sum()
        gradient, = torch.autograd.grad(depth, origin)
    return -normalize(gradient[:, 0], dim=1)


def spread_out(points, count):
    """At most `count` of the points (N, 3): each is the farthest from those before it (Gonzalez 1985)."""
    distance, chosen = torch.full((len(points),), torch.inf), [0]
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        if distance.max() < 1e-6:
            break
        chosen.append(int(distance.argmax()))
    return points[chosen]


def find_cameras(data, images=4096, most=64):
    """Unit vectors (K, 3) towards the cameras of a training split: at most `most`, spread out, of so many images."""
    numbers = np.sort(np.random.default_rng(0).permutation(len(data))[:images])
    parts = np.array_split(numbers, -(-len(numbers) // 512))
    return spread_out(torch.cat([directions(data, data.read(some).cameras) for some in parts]), most)


def open_sides(options, data, device, say=print):
    """The `Sides` for --lambda_flat."""
    found = find_cameras(data)
    everywhere = normalize(torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    if ((everywhere @ found.T).amax(1) > 0).all():
        say("--lambda_flat does nothing here: the cameras of the training images look from all sides")
    return Sides(found.to(device), -normalize(found.mean(0), dim=0).to(device))


def flat_loss(vertices, faces, sides, outward=1):
    """Excess area of the faces that no camera faces: sum of area x (1 - normal . away), mean over the batch.

    No silhouette changes if such a face bulges into the space that all cameras see as a part of the object: below a
    car, whose cameras look down by 30 degrees, that is a cone. The sum is the area of these faces less that of their
    shadow along `away`. It is 0 where they are flat, and then it does not pull at their rim.

    sides : `Sides`.
    outward : the `orientation` of the template.
    """
    v = vertices.permute(1, 2, 0).contiguous()  # (V, 3, B), as in `pressure_loss`
    a, b, c = (v[faces[:, k]] for k in range(3))
    normals = torch.linalg.cross(b - a, c - a, dim=1) * (outward / 2)  # as long as the area
    with torch.no_grad():
        faced = torch.einsum("fcb,kc->kfb", normals, sides.cameras).amax(0) > 0
    excess = torch.linalg.vector_norm(normals, dim=1) - torch.einsum("fcb,c->fb", normals, sides.away)
    return torch.where(faced, 0, excess).sum() / len(vertices)


# ---- symmetry -----------------------------------------------------------------------------------------

MIRROR_FIT = 0.9  # least similarity of silhouettes and mirrored ones; real airplanes, cars, chairs have 0.95 to 0.98


def find_mirror(data, at_once=4096, numbers=None):
    """Find the plane of `data.mirror_planes()` in which the objects of a training split are symmetric, from their
    silhouettes. Returns (plane, fit), or (None, 0.0) without candidates.

    numbers : images to look at; None for all.

    If the objects are symmetric, the flipped mean silhouette of a pose bin equals that of the bin which looks from the
    other side of the plane. The fit is sum of min / sum of max of the two, averaged over all images.
    """
    numbers = np.arange(len(data)) if numbers is None else np.asarray(numbers)
    poses, cameras = data.all_poses()[numbers], []
    sums, counts = None, torch.bincount(poses, minlength=data.num_poses)
    for start in range(0, len(numbers), at_once):
        part = data.read(numbers[start:start + at_once].tolist())
        silhouettes = (part.images[:, 3] if part.silhouettes is None else part.silhouettes).float() / 255
        if sums is None:
            sums = silhouettes.new_zeros(data.num_poses, *silhouettes.shape[1:])
        sums.index_add_(0, part.poses, silhouettes)
        cameras.append(part.cameras)
    means, cameras = sums / counts.clamp_min(1)[:, None, None], torch.cat(cameras)
    flipped, means = means.flip(-1).flatten(1), means.flatten(1)
    fit = torch.stack([torch.minimum(f, means).sum(1) / torch.maximum(f, means).sum(1).clamp_min(1e-6)
                       for f in flipped])  # (K, K)
    best = None, 0.0
    for plane in data.mirror_planes():
        other = data.pose_bins(data.mirrored(cameras, plane))
        known = (other < data.num_poses) & (counts[other.clamp_max(data.num_poses - 1)] > 0)
        if known.any():
            value = float(fit[poses[known], other[known]].mean())
            if value > best[1]:
                best = plane, value
    return best


def open_mirror(options, data, device, say=print):
    """The plane for --lambda_mirror."""
    planes = data.mirror_planes()
    if len(planes) == 1:  # the dataset knows its plane
        return planes[0]
    plane, fit = find_mirror(data)
    if fit < MIRROR_FIT:
        raise InputError(f"--lambda_mirror={options.lambda_mirror:g}: the training objects are not symmetric in any "
                         f"plane; the best similarity of silhouettes and mirrored ones is {fit:.3f}, at least "
                         f"{MIRROR_FIT} is needed")
    say(f"--lambda_mirror: the mirror plane is {data.plane_named(plane)}; the similarity of silhouettes and mirrored "
        f"ones is {fit:.3f}")
    return plane


def mirror_of_step(step, silhouette_loss):
    """Silhouette loss between the shapes of a `losses.Step`, seen from the mirrored cameras, and the flipped
    silhouettes of their images."""
    cameras = step.dataset.mirrored(step.cameras, step.prepared["mirror"])
    return silhouette_loss(step.draw(cameras)[0], step.silhouettes.flip(-1))
