"""What is known of shapes beside their silhouettes: they have an inside, which no camera sees, they look from any view
as others of their class do, and most are symmetric. Losses of it, with what these make of the training set.

B = batch, V = vertices, F = faces, K = pose bins, M = training images, S = side of the silhouettes.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

import neural_renderer as nr
from errors import InputError


# ---- inside and outside -----------------------------------------------------------------------------

def orientation(vertices, faces):
    """1 if the faces of a closed mesh, (V, 3) and (F, 3), are counterclockwise seen from outside, -1 if clockwise."""
    return -1 if float(signed_volume(vertices[None].double(), faces)) < 0 else 1


def signed_volume(vertices, faces):
    """(B,) volume inside closed meshes (B, V, 3), negative where they are inside out."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    return (a * torch.linalg.cross(b, c)).sum((1, 2)) / 6


def pressure_loss(vertices, faces, outward=1):
    """Internal pressure (Kato & Harada 2019): minus the sum over faces of centre . unit normal, mean over the batch.

    The normals are held fixed, so that every face is pushed along its own outward normal with the same force, whatever
    its size. A face without area has no normal and is not pushed.

    outward : the `orientation` of the template.
    """
    v = vertices.permute(1, 2, 0).contiguous()  # (V, 3, B): picking a vertex then copies one contiguous run
    a, b, c = (v[faces[:, k]] for k in range(3))
    with torch.no_grad():
        normals = torch.linalg.cross(b - a, c - a, dim=1)
        normals = normals * (outward / 3) / normals.square().sum(1, keepdim=True).clamp_min(1e-24).sqrt()
    return -((a + b + c) * normals).sum() / len(vertices)


def random_rotations(count, generator=None):
    """(count, 3, 3) rotations, uniform over all of them (quaternions of Marsaglia 1972), on the CPU."""
    quaternions = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64))
    w, x, y, z = quaternions.unbind(1)
    return torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1).view(count, 3, 3).float()


def turned_views(dataset, cameras, poses):
    """(rotations (B, 3, 3), poses): turns of the shapes, so that a camera sees them from any direction."""
    return random_rotations(len(cameras)).to(cameras.device, non_blocking=True), poses


def fronts_and_backs(screens, faces, image_size, flipped):
    """Depths (B, S, S) of the faces that are seen from outside, and of those seen from inside, each drawn alone; 100
    where there are none.

    screens : (B, V, 3), vertices that went through a dataset's `for_pictures`.
    flipped : whether faces that are seen from outside are clockwise on the screen: the camera mirrors, or the
        template's faces are clockwise themselves.
    """
    renderer = nr.Renderer(image_size, camera_mode="none", anti_aliasing=False, fill_back=False)
    fronts, backs = (faces.flip(1), faces) if flipped else (faces, faces.flip(1))
    return renderer.render_depth(screens, fronts), renderer.render_depth(screens, backs)


def front_loss(fronts, backs, far=100.0):
    """Mean over all pixels of max(0, depth of the fronts - depth of the backs), each drawn alone (B, S, S).

    A closed surface that is the right way out shows a front before any back. Where one that is inside out does not,
    the gradient sends the two through each other. Pixels that show only one of them, at the rim, count 0.
    """
    both = (fronts < far) & (backs < far)
    return torch.where(both, (fronts - backs).clamp_min(0), 0).mean()


def fronts_of_step(step):
    """`front_loss` of a `losses.Step`, each shape from a random direction."""
    turned = step.vertices @ step.views["front"].cameras
    screens = step.dataset.for_pictures(turned, step.cameras)
    return front_loss(*fronts_and_backs(screens, step.faces, step.silhouettes.shape[-1],
                                        step.dataset.mirrors != (step.topology.outward < 0)))


# ---- silhouettes of others ----------------------------------------------------------------------------

@dataclass
class Bank:
    """Silhouettes of the training set by pose bin. It follows from the data alone."""
    whole: torch.Tensor    # (M, S, S) uint8
    cameras: torch.Tensor  # (M, ...)
    members: torch.Tensor  # (K, n) int64 images of each bin, n being the most that one has; the first fills the rest
    halves: torch.Tensor   # (K, n, S/2 * S/2) uint8, the same at half resolution
    counts: torch.Tensor   # (K,) int64

    @classmethod
    def of(cls, data, device, at_once=4096):
        """Of a training split (without augmentation), on a device."""
        poses = data.all_poses()
        counts = torch.bincount(poses, minlength=data.num_poses)
        order, first = torch.argsort(poses, stable=True), counts.cumsum(0) - counts
        column = torch.arange(int(counts.max()))
        members = order[(first[:, None] + torch.where(column < counts[:, None], column, 0)).clamp_max(len(order) - 1)]
        whole = cameras = halves = None
        for start in range(0, len(data), at_once):
            part = data.read(range(start, min(start + at_once, len(data)))).to(device)
            silhouettes = part.images[:, 3] if part.silhouettes is None else part.silhouettes
            if whole is None:
                whole = silhouettes.new_empty(len(data), *silhouettes.shape[1:])
                cameras = part.cameras.new_empty(len(data), *part.cameras.shape[1:])
                halves = whole.new_empty(len(data), (whole.shape[-1] // 2) ** 2)
            here = slice(start, start + len(silhouettes))
            whole[here], cameras[here] = silhouettes, part.cameras
            halves[here] = halved(silhouettes.float()).round().to(torch.uint8)
        members = members.to(device)
        return cls(whole, cameras, members, halves[members.flatten()].view(*members.shape, -1), counts.to(device))

    def nearest(self, silhouettes, bin):
        """(B,) int64: the image of a bin whose silhouette has the highest IoU with each of (B, S, S), at half
        resolution; bin () int64, a tensor."""
        mine = halved(silhouettes)
        dtype = mine.dtype
        real = self.halves.index_select(0, bin.view(1))[0].to(dtype) / 255
        shared = mine @ real.T
        fit = shared / (mine.sum(1)[:, None] + real.sum(1) - shared).clamp_min(1e-6)
        chosen = fit.argmax(1)
        return self.members.index_select(0, bin.view(1))[0][chosen]

    def silhouettes(self, numbers):
        """(B, S, S) in [0, 1] of images with these numbers (B,)."""
        return self.whole[numbers].float() / 255


def halved(silhouettes):
    """(B, S, S) to (B, S/2 * S/2), means of four pixels."""
    return avg_pool2d(silhouettes[:, None], 2).flatten(1)


def open_bank(options, data, device, say=print):
    """The `Bank` for --lambda_near, in the memory of the device or, if that is too small, of the host."""
    if data.num_poses < 2:
        raise InputError(f"--lambda_near={options.lambda_near:g} looks for silhouettes in other pose bins than an "
                         f"image's own; {data.name} has {data.num_poses} here")
    try:
        bank = Bank.of(data, device)
    except torch.OutOfMemoryError:
        say(f"silhouettes for --lambda_near do not fit into the memory of {device}: they stay on the host, and steps "
            "are not recorded as CUDA graphs")
        bank = Bank.of(data, torch.device("cpu"))
    empty = (bank.counts == 0).nonzero().flatten().tolist()
    if empty:
        say(f"--lambda_near leaves out {len(empty)} of {data.num_poses} pose bins, which have no training images")
    return bank


def one_view_of_batch(dataset, cameras, poses):
    """Camera and pose bin of one image of the batch, drawn at random, for all of them: where shapes are looked at
    together, one matrix product finds their nearest silhouettes."""
    chosen = torch.randint(len(cameras), (1,)).to(cameras.device, non_blocking=True).expand(len(cameras))
    return cameras[chosen], poses[chosen]


def nearest_of_step(step, silhouette_loss):
    """The shapes of a `losses.Step` from another view against the real silhouettes of that view's bin that fit best.

    Where every image has a camera of its own, the shapes are drawn again from that of the silhouette found.
    """
    bank, view = step.prepared["near"], step.views["near"]
    with torch.no_grad():
        device = bank.whole.device
        found = bank.nearest(view.rendered.detach().to(device), view.poses[0].to(device))
        target, cameras = (t.to(step.vertices.device) for t in (bank.silhouettes(found), bank.cameras[found]))
    rendered = view.rendered if step.dataset.num_views is not None else step.draw(cameras)[0]
    return silhouette_loss(rendered, target)


# ---- symmetry -----------------------------------------------------------------------------------------

MIRROR_FIT = 0.9  # how alike silhouettes and mirrored silhouettes must be; real airplanes, cars, chairs: 0.95 to 0.98


def find_mirror(data, at_once=4096, numbers=None):
    """(plane, fit): which of `data.mirror_planes()` the objects of a training split are symmetric in, from their
    silhouettes alone, and how well: None and 0 without candidates.

    numbers : images to look at; None for all.

    The mean silhouette of a pose bin, flipped, should be that of the bin that looks from the other side of the plane.
    The fit is sum of min / sum of max of the two, mean over all images.
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
    if len(planes) == 1:  # told
        return planes[0]
    plane, fit = find_mirror(data)
    if fit < MIRROR_FIT:
        raise InputError(f"--lambda_mirror={options.lambda_mirror:g}: no plane is found in which the training objects "
                         f"are symmetric; silhouettes and mirrored ones are alike by {fit:.3f} at best, at least "
                         f"{MIRROR_FIT} is needed")
    say(f"--lambda_mirror: the mirror plane is {data.plane_named(plane)}; silhouettes and mirrored ones are alike by "
        f"{fit:.3f}")
    return plane


def mirror_of_step(step, silhouette_loss):
    """The shapes of a `losses.Step` from the mirrored cameras against their own silhouettes, flipped."""
    cameras = step.dataset.mirrored(step.cameras, step.prepared["mirror"])
    return silhouette_loss(step.draw(cameras)[0], step.silhouettes.flip(-1))
