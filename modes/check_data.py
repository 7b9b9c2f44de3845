"""`--mode=check_data`: lists the content of a dataset's folder, finds missing and broken files, and tests the axes of
its voxels and cameras, and whether voxels and images are of the same objects."""
import itertools
import os

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from datasets import DATASETS
from engine import disk
from engine.arguments import Mode, need
from errors import InputError
from losses.priors import MIRROR_FIT, find_mirror
from pictures import on_paper, to_image
from readers.base import VOXEL_GRID

MARGIN = 0.02   # another orientation or object is reported if it overlaps better by this; objects are nearly symmetric
LEAST = 0.4     # least overlap of voxels and mask; intact files reach 0.7 to 0.95. Thin objects overlap less, because
                # wings are too thick at 32^3; they are accepted if
COVER = 0.8     # their voxels cover at least this share of the mask,
BETTER = 1.25   # and the overlap is this many times the median over the 48 orientations
WAYS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))  # of the axes
MEASURED, SHOWN = 24, 8  # samples per class
FEW = 6                  # images to measure where a class has fewer objects
SYMMETRIC = 100          # objects from which the mirror plane of a class is found


def run(options, _device):
    """Print the report and write the sheet; returns the exit code, 0 if nothing is wrong, else 1."""
    need(options, "data_dir")
    folder = options.sample_dir
    dataset = DATASETS[options.dataset]
    print(f"{dataset.name} in {options.data_dir}\n  expected: {dataset.contents}\n  published by its authors: "
          f"{dataset.source}")
    class_ids = dataset.classes(options.data_dir, vars(options))
    wrong, opened = [], {}
    print(f"{'class':<24}{'split':<8}{'objects':>9}{'images':>9}{'broken':>8}")
    for class_id in class_ids:
        for split in [options.split] if options.split else dataset.splits:
            said = []
            try:
                views = dataset.views_to_check(options.data_dir, class_id, vars(options), said.append) \
                    if split == "train" else None
                data = dataset.open({**vars(options), "skip_bad": True, "class_ids": [class_id]}, split,
                                    trainViews=views, say=said.append)
            except InputError as error:
                wrong.append(str(error))
                print(f"{dataset.class_label(class_id):<24}{split:<8}{'-':>9}{'-':>9}  {error}")
                continue
            broken = [line.strip() for line in said if line.startswith("  ")]
            wrong += broken
            print(f"{dataset.class_label(class_id):<24}{split:<8}{data.num_objects:>9}{len(data):>9}{len(broken):>8}")
            for line in said:
                print(f"  {line.strip()}")
            opened[class_id, split] = data
    rows = []
    for (class_id, split), data in opened.items():
        name = f"{dataset.class_label(class_id)}, {split}"
        batch, meshes = _samples(data, MEASURED)
        overlaps, covers = _overlaps(data, batch, meshes)
        verdict, overlaps = _verdict(overlaps, covers) or _order(data, batch, meshes), overlaps[0]
        if verdict:
            wrong.append(f"{name}: {verdict}")
        print(f"{name}: voxels and masks overlap by {overlaps.mean():.3f}"
              + (f"; WRONG: {verdict}" if verdict else ""))
        try:
            verdict, near = _points(data)
        except InputError as error:
            verdict, near = str(error), None
        if near is not None:
            print(f"  surface points in or beside the voxels: {near:.3f}")
        if verdict:
            wrong.append(f"{name}: {verdict}")
            print(f"  WRONG: {verdict}")
        if split == "train" and data.mirror_planes():
            print(f"  {_symmetry(data)}")
        rows.append((name, batch, _silhouettes(data, batch, meshes), overlaps))
    if rows:
        disk.make_folder(folder, "--sample_dir")
        path = os.path.join(folder, f"check_{dataset.name}.png")
        _sheet(rows).save(path)
        print(f"wrote {path}: image, mask, voxels through the camera, both (grey: both, red: mask, blue: voxels)")
    count = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
    print(f"{count} wrong:" if wrong else "everything found is in order")
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


def _samples(data, count):
    """`Batch` of images of evenly spread objects, at most `count`, and of several views where these are FEW; and the
    mesh of each image's voxels."""
    objects, chosen = data.spread(count)
    owners = data.all_objects().numpy()
    views = int(np.bincount(owners).min())
    for turn in range(1, min(FEW // len(objects), views)):
        more, others = data.spread(count, first=turn)
        objects, chosen = np.concatenate([objects, more]), chosen + others
    return data.gather(chosen), data.voxel_meshes(objects)


def _symmetry(data):
    """A line with the mirror plane that --lambda_mirror would use, from all images of some objects."""
    objects = np.linspace(0, data.num_objects - 1, min(SYMMETRIC, data.num_objects)).astype(int)
    planes = data.mirror_planes()
    plane, fit = find_mirror(data, numbers=np.flatnonzero(np.isin(data.all_objects().numpy(), objects)))
    alike = f"the similarity of silhouettes and mirrored ones is {fit:.3f}" if plane is not None else \
        "no image looks from the mirrored side of another, so silhouettes tell nothing about it"
    if len(planes) == 1:
        return f"mirror plane: {data.plane_named(planes[0])}, as the dataset says; {alike}"
    if fit < MIRROR_FIT:
        return f"mirror plane: none is found; {alike}{' at best' * (plane is not None)}"
    return f"mirror plane: {data.plane_named(plane)}, found from the images; {alike}"


def _draw(data, vertices, faces, cameras, size):
    if not faces.numel():
        return torch.zeros(len(vertices), size, size)
    return data.renderer(size).render_silhouettes(data.for_pictures(vertices, cameras), faces)


def _silhouettes(data, batch, meshes):
    size = batch.silhouettes.shape[-1]
    return torch.cat([_draw(data, vertices, faces, batch.cameras[k:k + 1], size)
                      for k, (vertices, faces) in enumerate(meshes)])


def _overlaps(data, batch, meshes):
    """Overlap (intersection over union) of voxels and mask, and share of the mask that the voxels cover: both (48, N),
    of N samples with the axes exchanged and reversed in each of the WAYS, of which the first is the stated one."""
    size = batch.silhouettes.shape[-1]
    overlaps, covers = np.zeros((2, len(WAYS), len(meshes)))
    for k, (vertices, faces) in enumerate(meshes):
        centred = data.to_grid(vertices[0]) - 0.5
        turned = torch.stack([centred[:, list(axes)] * centred.new_tensor(signs) for axes, signs in WAYS])
        cameras = batch.cameras[k:k + 1].expand(len(WAYS), *batch.cameras.shape[1:])
        drawn = _draw(data, data.from_grid(turned + 0.5), faces, cameras, size) > 0.5
        mask = batch.silhouettes[k] > 0.5
        both = (drawn & mask).flatten(1).sum(1)
        overlaps[:, k] = both / (drawn | mask).flatten(1).sum(1).clamp_min(1)
        covers[:, k] = both / mask.sum().clamp_min(1)
    return overlaps, covers


def _verdict(overlaps, covers, stated=0):
    """What is wrong with voxels in the stated one of the WAYS, in words, or None."""
    overlaps, covers = overlaps.mean(1), covers.mean(1)
    best, own = int(overlaps.argmax()), overlaps[stated]

    def fits(way):
        thin = covers[way] >= COVER and overlaps[way] >= BETTER * np.median(overlaps)
        return overlaps[way] >= LEAST or thin
    if overlaps[best] > own + MARGIN and (fits(best) or fits(stated)):
        return (f"voxels overlap better ({overlaps[best]:.3f} instead of {own:.3f}) if the renderer's axes are "
                f"({_axes(best)}): an axis of the voxels or of the camera is not as published")
    if not fits(stated):
        return (f"voxels and masks overlap by only {overlaps[best]:.3f} in the best orientation, and the voxels cover "
                f"{covers[best]:.3f} of the masks: they show different objects")
    return None


def _order(data, batch, meshes):
    """Whether the voxels of samples are those of other samples' objects, in words, or None. Their own must overlap with
    a mask better than the mean of the others does, by as much as the best one can."""
    objects, first = np.unique(batch.objects.numpy(), return_index=True)
    if len(objects) < 2:
        return None
    size, masks = batch.silhouettes.shape[-1], batch.silhouettes > 0.5
    overlaps = np.zeros((len(masks), len(objects)))
    for k, (vertices, faces) in enumerate(meshes[i] for i in first):
        drawn = _draw(data, vertices.expand(len(masks), -1, -1), faces, batch.cameras, size) > 0.5
        overlaps[:, k] = (drawn & masks).flatten(1).sum(1) / (drawn | masks).flatten(1).sum(1).clamp_min(1)
    own = overlaps[np.arange(len(masks)), np.searchsorted(objects, batch.objects.numpy())]
    others = (overlaps.sum(1) - own).mean() / (len(objects) - 1)
    own, best = own.mean(), overlaps.max(1).mean()
    if best - own > max(MARGIN, own - others):
        return (f"voxels overlap with the masks of their own images by {own:.3f}, with those of other objects by "
                f"{others:.3f}, and at best by {best:.3f}: objects of voxels and images are not in one order")
    return None


def _points(data, count=1000):
    """Try all 48 ways to swap and reverse the axes of the surface points of some objects; in none may more of them be
    in or beside occupied cells than in the documented one. Returns (message or None, the share in the documented way,
    None if the split has no points)."""
    points = data.points(0)
    if points is None:
        return None, None
    objects, _ = data.spread(MEASURED)
    near = np.zeros((len(WAYS), len(objects)))
    for k, (o, grid, scale) in enumerate(zip(objects, data.voxels(objects), data.grid_scales(objects).tolist())):
        beside = torch.nn.functional.max_pool3d(data.mesh_axes(grid)[None].float(), 3, 1, 1)[0] > 0
        centred = data.to_grid(torch.from_numpy(np.asarray(points[o][:count, :3], np.float32)) / scale) - 0.5
        turned = torch.stack([centred[:, list(axes)] * centred.new_tensor(signs) for axes, signs in WAYS])
        cells = ((turned + 0.5) * VOXEL_GRID).floor().long().clamp(0, VOXEL_GRID - 1)
        near[:, k] = beside[tuple(cells.unbind(-1))].float().mean(1)
    shares = near.mean(1)
    best = int(shares.argmax())
    if shares[best] > shares[0] + MARGIN:
        return (f"more surface points are in or beside occupied cells ({shares[best]:.3f} instead of {shares[0]:.3f}) "
                f"if the renderer's axes are ({_axes(best)}): an axis of the points differs from the voxels'"
                ), shares[0]
    return None, shares[0]


def _axes(way):
    """'x, -z, y': an entry of WAYS in words."""
    return ", ".join(("-" if sign < 0 else "") + "xyz"[axis] for axis, sign in zip(*WAYS[way]))


def _sheet(classes, size=96, blocks=2, head=24):
    """A picture: under the name of each class, `blocks` samples per row, each with its overlap and four pictures."""
    width, height = 4 * size + 12, size + 18
    lines = [-(-min(len(batch.images), SHOWN) // blocks) for _, batch, _, _ in classes]
    paper = Image.new("RGB", (blocks * width, len(lines) * head + sum(lines) * height), "white")
    pen, font, top = ImageDraw.Draw(paper), ImageFont.load_default(12), 0
    for (name, batch, drawn, overlaps), count in zip(classes, lines):
        pen.text((6, top + 6), f"{name}: overlap {overlaps.mean():.3f}", "black", font)
        for k, image in enumerate(batch.images[:SHOWN]):
            x, y = k % blocks * width + 6, top + head + k // blocks * height
            pen.text((x, y + 2), f"{overlaps[k]:.3f}", "black", font)
            mask, voxels = (torch.nn.functional.interpolate(shown[k].expand(1, 1, -1, -1), size=(size, size))[0, 0]
                            for shown in (batch.silhouettes, drawn))
            pictures = (on_paper(image, size), (1 - mask).expand(3, -1, -1), (1 - voxels).expand(3, -1, -1),
                        _both(mask, voxels))
            for at, picture in enumerate(pictures):
                paper.paste(to_image(picture), (x + at * size, y + 18))
        top += head + count * height
    return paper


def _both(mask, voxels):
    """(3, S, S): grey where mask and voxels overlap, red for only the mask, blue for only the voxels."""
    ink = torch.tensor([[0.5, 0.5, 0.5], [0.0, 1.0, 1.0], [1.0, 0.6, 0.0]])  # subtracted from white
    where = torch.stack([mask * voxels, mask * (1 - voxels), (1 - mask) * voxels])
    return 1 - torch.einsum("wij,wc->cij", where, ink)


MODE = Mode(run, "finds missing and broken files and wrong axes in DATA_DIR: a table, a picture, an exit code")
