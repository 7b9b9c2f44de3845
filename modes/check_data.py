"""`--mode=check_data`: lists the content of a dataset's folder, finds missing and broken files, and tests the axes of
its voxels and cameras."""
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

MARGIN = 0.02   # another orientation is reported if it overlaps better by this; objects are nearly symmetric
LEAST = 0.4     # least overlap of voxels and mask; intact files reach 0.7 to 0.95. Thin objects overlap less, because
                # wings are too thick at 32^3; they are accepted if
COVER = 0.8     # their voxels cover at least this share of the mask,
BETTER = 1.25   # and the overlap is this many times the median over the 48 orientations
MEASURED, SHOWN = 24, 8  # samples per class
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
        verdict, overlaps = _orientation(data, batch, meshes)
        if verdict:
            wrong.append(f"{name}: {verdict}")
        print(f"{name}: voxels and masks overlap by {overlaps.mean():.3f}"
              + (f"; WRONG: {verdict}" if verdict else ""))
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
    """`Batch` of images of evenly spread objects, and the mesh of each object's voxels."""
    objects, chosen = data.spread(count)
    return data.gather(chosen), data.voxel_meshes(objects)


def _symmetry(data):
    """A line with the mirror plane that --lambda_mirror would use, from all images of some objects."""
    objects = np.linspace(0, data.num_objects - 1, min(SYMMETRIC, data.num_objects)).astype(int)
    planes = data.mirror_planes()
    plane, fit = find_mirror(data, numbers=np.flatnonzero(np.isin(data.all_objects().numpy(), objects)))
    alike = f"the similarity of silhouettes and mirrored ones is {fit:.3f}"
    if len(planes) == 1:
        return f"mirror plane: {data.plane_named(planes[0])}, as the dataset says; {alike}"
    if fit < MIRROR_FIT:
        return f"mirror plane: none is found; {alike} at best"
    return f"mirror plane: {data.plane_named(plane)}, found from the images; {alike}"


def _draw(data, vertices, faces, cameras, size):
    if not faces.numel():
        return torch.zeros(len(vertices), size, size)
    return data.renderer(size).render_silhouettes(data.for_pictures(vertices, cameras), faces)


def _silhouettes(data, batch, meshes):
    size = batch.silhouettes.shape[-1]
    return torch.cat([_draw(data, vertices, faces, batch.cameras[k:k + 1], size)
                      for k, (vertices, faces) in enumerate(meshes)])


def _orientation(data, batch, meshes):
    """Try all 48 ways to swap and reverse the axes; none may overlap better than the documented one. Returns (message
    or None, overlap of each sample in the documented orientation)."""
    ways = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    size = batch.silhouettes.shape[-1]
    overlaps, covers = np.zeros((len(ways), len(meshes))), np.zeros(len(meshes))
    for k, (vertices, faces) in enumerate(meshes):
        centred = data.to_grid(vertices[0]) - 0.5
        turned = torch.stack([centred[:, list(axes)] * centred.new_tensor(signs) for axes, signs in ways])
        cameras = batch.cameras[k:k + 1].expand(len(ways), *batch.cameras.shape[1:])
        drawn = _draw(data, data.from_grid(turned + 0.5), faces, cameras, size) > 0.5
        mask = batch.silhouettes[k] > 0.5
        union = (drawn | mask).flatten(1).sum(1).clamp_min(1)
        both = (drawn & mask).flatten(1).sum(1)
        overlaps[:, k] = both / union
        covers[k] = both[0] / mask.sum().clamp_min(1)
    stated, best = overlaps.mean(1)[0], int(overlaps.mean(1).argmax())
    if overlaps[best].mean() > stated + MARGIN:
        axes, signs = ways[best]
        found = ", ".join(("-" if s < 0 else "") + "xyz"[a] for a, s in zip(axes, signs))
        return (f"voxels overlap better ({overlaps[best].mean():.3f} instead of {stated:.3f}) if the renderer's "
                f"axes are ({found}): an axis of the voxels or of the camera is not as published"), overlaps[0]
    thin = covers.mean() >= COVER and stated >= BETTER * np.median(overlaps.mean(1))
    if stated < LEAST and not thin:
        return (f"voxels and masks overlap by only {stated:.3f} in the best orientation, and the voxels cover "
                f"{covers.mean():.3f} of the masks: they show different objects"), overlaps[0]
    return None, overlaps[0]


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
