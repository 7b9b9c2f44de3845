"""Metrics beyond voxel IoU and MMD: shapes that are inside out, silhouettes from new views, and poses that a network
can predict from the codes. B = batch, V = vertices, S = side of the silhouettes.
"""
import torch
from torch import nn

from engine.graphs import Captured
from losses import priors


def inside_out(dataset, vertices, faces, cameras, image_size, outward, rotations):
    """(B, 2): the number of pixels whose nearest face shows its back, and the number of pixels that show any face, of
    rotated shapes. The ratio is 0 for a closed shape that is nowhere inside out.

    vertices : (B, V, 3), in the renderer's frame. cameras : (B, ...), any cameras.
    outward : `priors.orientation` of the template. rotations : (B, 3, 3), such as `priors.random_rotations`.
    """
    turned = vertices @ rotations.to(vertices)
    fronts, backs = priors.fronts_and_backs(dataset.for_pictures(turned, cameras), faces, image_size,
                                            dataset.mirrors != (outward < 0))
    drawn = torch.minimum(fronts, backs) < 100
    return torch.stack([((backs < fronts) & drawn).sum((1, 2)), drawn.sum((1, 2))], 1).double()


def silhouette_iou(rendered, target):
    """(B,) IoU of images (B, S, S), counting pixels that are more than half covered. Two empty images have IoU 1."""
    rendered, target = rendered > 0.5, target > 0.5
    shared, union = (rendered & target).sum((1, 2)), (rendered | target).sum((1, 2))
    return torch.where(union == 0, 1.0, shared / union.clamp_min(1))


def other_images(objects, views, generator=None):
    """(objects * views,) for each image of a batch, another random image of the same object; None if each object has
    one. The batch has the same number of images of each object, objects one after another."""
    if views < 2:
        return None
    shift = torch.randint(1, views, (objects, 1), generator=generator)
    return (torch.arange(objects)[:, None] * views + (torch.arange(views) + shift) % views).flatten()


def seen_views(dataset, renderer, vertices, faces, batch, others):
    """(B, 2): IoU of the drawn and the real silhouette, from the view of each shape's own image and from the view of
    another random image of the same object.

    batch : `Batch` of floats, the images from which the shapes are predicted. others : (B,) for each the number of the
        other image within the batch (`other_images`); None where there is no other view: that IoU is NaN.
    """
    own = silhouette_iou(renderer.render_silhouettes(dataset.project(vertices, batch.cameras), faces),
                         batch.silhouettes)
    if others is None:
        return torch.stack([own, torch.full_like(own, float("nan"))], 1).double()
    others = others.to(own.device)
    new = silhouette_iou(renderer.render_silhouettes(dataset.project(vertices, batch.cameras[others]), faces),
                         batch.silhouettes[others])
    return torch.stack([own, new], 1).double()


PROBE_STEPS, PROBE_BATCH, PROBE_HIDDEN = 400, 256, 256


def pose_probe(codes, poses, objects, angle=None, seed=0):
    """How well a new two-layer network predicts the pose from the codes of objects that it was not trained on.

    Two-fold cross-validation over objects. MMD compares whole distributions and may miss what a network finds.

    Parameters
    ----------
    codes : (M, d), of one class; the network is trained on their device. poses : (M,) int64 pose bins.
    objects : (M,) int64.
    angle : function of two (M,) tensors of pose bins that returns the angles between them in degrees.
    seed : seed of the halves and of the network. The global generator does not change.

    Returns
    -------
    {'accuracy', 'degrees', 'chance', 'chance_degrees'}: the share of poses that are predicted correctly and the mean
    angular error; and the same two for the best constant guess. NaN if there are fewer than two poses or objects.
    """
    names = objects.unique()
    bins, labels = poses.unique(return_inverse=True)
    if len(bins) < 2 or len(names) < 2:
        return dict.fromkeys(("accuracy", "degrees", "chance", "chance_degrees"), float("nan"))
    generator = torch.Generator().manual_seed(seed)
    half = names[torch.randperm(len(names), generator=generator)[:len(names) // 2]]
    first = torch.isin(objects, half)
    read = torch.empty_like(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for teaches in (first, ~first):
            read[~teaches] = _read(codes[teaches], labels[teaches], codes[~teaches], len(bins), generator)

    def missed(guess):
        return float("nan") if angle is None else float(angle(guess, poses).double().mean())
    constant = [(bins[k].expand(len(poses)), float((labels == k).double().mean())) for k in range(len(bins))]
    return {"accuracy": float((read == labels).double().mean()), "degrees": missed(bins[read]),
            "chance": max(share for _, share in constant),
            "chance_degrees": min(missed(guess) for guess, _ in constant)}


def _read(codes, labels, asked, count, generator):
    """Train a network on codes (M, d) and labels (M,), and predict the labels (N,) of other codes, `asked` (N, d).
    Draws from the generator and returns tensors on the CPU."""
    codes, asked = codes.float(), asked.float()
    labels = labels.to(codes.device)
    mean, deviation = codes.mean(0), codes.std(0, correction=0).clamp_min(1e-8)
    codes, asked = (codes - mean) / deviation, (asked - mean) / deviation
    network = nn.Sequential(nn.Linear(codes.shape[1], PROBE_HIDDEN), nn.ReLU(), nn.Linear(PROBE_HIDDEN, count))
    network.to(codes.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2, fused=True,
                                  capturable=codes.is_cuda)

    def learn(chosen):
        loss = nn.functional.cross_entropy(network(codes[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {}, {}
    learn = Captured(learn) if codes.is_cuda else learn  # as single launches these steps take a second
    batches = torch.randint(len(codes), (PROBE_STEPS, min(PROBE_BATCH, len(codes))), generator=generator)
    for chosen in batches.to(codes.device):
        learn(chosen)
    with torch.no_grad():
        return network(asked).argmax(1).cpu()


COLLAPSED = 1e-3


def code_spread(codes):
    """Root mean square distance of codes (M, d) from their mean, divided by the root mean square of their lengths.
    Below COLLAPSED the model predicts one shape for all images, and its MMD near 0 means nothing."""
    codes = codes.double()
    length = codes.square().sum(1).mean().sqrt()
    return float((codes - codes.mean(0)).square().sum(1).mean().sqrt() / length.clamp_min(1e-300))
