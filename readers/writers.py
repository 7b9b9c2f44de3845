"""Write the files of a class in the published layouts, from meshes, for the built-in data and `make_dataset`.

A dataset's `writer` is one of these functions as a class method. It is called as dataset.writer(folder, class_id,
sizes, make, train_views, seed, name): sizes {split: number of objects}; make(split, i) returns (vertices, faces,
colors) of one object in the people frame; train_views is the number of views of each training object (None: all); name
is shown with the progress. If light or background vary, `scenery` is a `making.scenery.Scenery`. The writer returns a
list with an entry for each object whose `make` lists `missing` files: its sentences about them. The renderer draws the
pictures with the dataset's cameras, the voxeliser makes the grids in the dataset's axes.
"""
import itertools
import os
import pickle
import shutil
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from engine import disk
from engine.monitor import Progress
from errors import InputError, WriteError
from making import cubes
from making.grids import turn_grid
from making.looks import Look
from making.scenery import FIXED, IN_PICTURE, Scenery
from making.workers import Journal, in_order
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.ops import rasterize

from .conventions import VOXEL_GRID
from .nips17_files import read_splits
from .pascal3d_cameras import MARGIN, turntable_rotations
from .r2n2_files import DISTANCE, PICTURE


def draw_rgba(dataset, vertices, faces, colors, cameras, size, lights=FIXED):
    """Draw RGBA pictures (B, 4, S, S) in [0, 1] of a mesh: vertices (V, 3) in the renderer's frame, faces (F, 3) as in
    the people frame, colors (F, 3) in [0, 1] or a `Look`. Colours are on black, that is, multiplied by alpha. `lights`
    are rows like `scenery.FIXED`: one for all pictures, or (B, 5)."""
    looks = isinstance(colors, Look)
    if looks:
        vertices, faces, texture = cubes.textured(vertices, faces, colors, size)
    else:
        texture = colors.to(vertices)[:, None, None, None]
    lights = torch.as_tensor(lights).to(vertices).view(-1, 5)
    # face_light expects a camera that mirrors; for a camera that does not, reverse the faces.
    corners = vertices_to_faces(vertices[None], faces if dataset.mirrors else faces.flip(-1))
    light = face_light(corners.expand(len(lights), -1, -1, -1), lights[:, 3], lights[:, 4], direction=lights[:, :3])
    screen = dataset.for_pictures(vertices[None].expand(len(cameras), -1, -1), cameras)
    if looks:
        screen, faces, texture, light = cubes.both_sides(screen, faces, texture, light)
    rgb, alpha, _ = rasterize(screen, faces, texture[None].expand(len(cameras), *texture.shape),
                              light.expand(len(cameras), -1, -1, -1), image_size=size, anti_aliasing=True, near=0.1,
                              far=100, eps=1e-3, fill_back=not looks, rgb=True, alpha=True)
    return torch.cat([rgb, alpha[:, None]], 1).clamp(0, 1)


def within(vertices, radius):
    """Scale vertices down if they leave the ball of this radius, so that no picture cuts the object off."""
    return vertices * min(1.0, radius / max(float(vertices.norm(dim=1).max()), 1e-9))


def as_bytes(pictures):
    return (pictures * 255).round().to(torch.uint8).numpy()


def draw_views(dataset, vertices, faces, colors, cameras, lights=FIXED, behind=lambda pictures: pictures):
    """Draw pictures, uint8 (v, 4, S, S), of a mesh in the people frame from the dataset's cameras (v, ...). `behind`
    takes the pictures in [0, 1] and returns them with their backgrounds."""
    return as_bytes(behind(draw_rgba(dataset, dataset.place(vertices), faces, colors, cameras, dataset.img_size,
                                     lights)))


def voxel_grid(dataset, vertices, faces):
    """Voxelise a mesh in the people frame: (32, 32, 32) bool in the dataset's axes."""
    return dataset.voxelize(dataset.place(vertices)[None], faces)[0].numpy()


@dataclass
class CVPR18Object:
    """Makes the record of an object, a dict of arrays: images (v, 4, 64, 64), voxels (32, 32, 32), shown (v,). If the
    object is a grid, also `overlap`, the IoU of the grid and its voxelised surface, and `cut`, whether a view cuts the
    object off.

    make : called as make(split, i); returns (vertices, faces, colors), or (vertices, faces, colors, grid).
    """
    dataset: type
    make: object
    train_views: int | None
    seed: int
    scenery: Scenery

    def __call__(self, item):
        split, number, i = item
        vertices, faces, colors, *grid = self.make(split, i)
        kept = self.train_views if split == "train" and self.train_views else self.dataset.num_views
        rng = np.random.default_rng([self.seed, number, i])
        shown = np.sort(rng.permutation(self.dataset.num_views)[:kept])
        lights = self.scenery.lights(number, i, shown)
        images = draw_views(self.dataset, vertices, faces, colors, torch.from_numpy(shown),
                            FIXED if lights is None else lights,
                            lambda pictures: self.scenery.put_behind(pictures, number, i, shown))
        record = {"images": images, "voxels": voxel_grid(self.dataset, vertices, faces),
                  "shown": shown.astype(np.uint8), **_missing_of(self.make)}
        if lights is not None:
            record["lights"] = lights
        if grid:
            given = dataset_grid(self.dataset, grid[0])
            union = max(int((given | record["voxels"]).sum()), 1)
            placed = self.dataset.place(vertices)[None].expand(len(shown), -1, -1)
            seen = self.dataset.project(placed, torch.from_numpy(shown))
            record |= {"overlap": (given & record["voxels"]).sum() / union, "voxels": given,
                       "cut": bool(seen[..., :2].abs().max() > 1)}
        return record


def dataset_grid(dataset, grid):
    """Convert a grid in the people frame, axis k along coordinate k, to the dataset's axes: (32, 32, 32) bool."""
    placed = turn_grid(grid, dataset.place(torch.eye(3)).T.numpy())
    return dataset.grid_axes(torch.from_numpy(placed)).numpy()


def _missing_of(make):
    """{"missing": sentences about files that the last object of `make` lacks}, or {} if it lacks none."""
    missing = getattr(make, "missing", None)
    return {"missing": np.array(missing)} if missing else {}


def write_cvpr18(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write `<class>_<split>_{images,voxels}.npz`, and `<class>_train_views.npz` if there are fewer than all views.
    With random light, also `<class>_<split>_lights.npz`: float32 (N, v, 5), rows like `scenery.FIXED`.

    Objects are kept in `<class>_<split>.part` until the class is complete, so that an interrupted call can continue.
    """
    progress, done, first = Progress(f"  {name}", sum(sizes.values()), " objects"), 0, 0
    scenery, missing = scenery or Scenery(class_id, seed), []
    one, journals, grids = CVPR18Object(dataset, make, train_views, seed, scenery), [], []
    disk.make_folder(folder, "--data_dir")
    key = pickle.dumps((one, sizes))
    try:
        for number, (split, count) in enumerate(sizes.items()):
            journal = Journal(os.path.join(folder, f"{class_id}_{split}.part"), key)
            journals.append(journal)
            done, first = done + len(journal), first + len(journal)
            progress.first = first
            for record in in_order(one, [(split, number, i) for i in range(len(journal), count)], workers):
                journal.append(record)
                done += 1
                progress.update(done)
            kept = train_views if split == "train" and train_views else dataset.num_views
            if split == "train" and kept < dataset.num_views:
                _write_npz(folder, f"{class_id}_train_views", np.stack([record["shown"] for record in journal]))
            lights = [("lights", (kept, len(FIXED)), np.float32)] * (scenery.light != "fixed")
            for what, shape, dtype in (("images", (kept, 4, dataset.img_size, dataset.img_size), np.uint8),
                                       ("voxels", (VOXEL_GRID,) * 3, bool), *lights):
                _write_rows(folder, f"{class_id}_{split}_{what}", (count, *shape), dtype,
                            (record[what] for record in journal))
            grids += [(float(record["overlap"]), bool(record["cut"])) for record in journal if "overlap" in record]
            missing += [list(map(str, record["missing"])) for record in journal if "missing" in record]
            if split == "train":
                _write_sheet(folder, class_id, journal, scenery)
    except BaseException as error:
        for journal in journals:  # after an InputError the files will change, so nothing can be reused
            journal.close() if len(journal) and not isinstance(error, InputError) else journal.remove()
        raise
    for journal in journals:
        journal.remove()
    if grids:
        overlap, cut = np.mean(grids, 0)
        print(f"  {name}: the voxels are the given grids, rotated; the IoU with their surfaces, voxelised by the "
              f"published rule, is {overlap:.3f}" + (f"; {cut:.1%} of the objects are too large for a picture at the "
                                                     "grid's scale and are cut off there" if cut else ""))
    return missing


def _write_sheet(folder, class_id, records, scenery, objects=8, views=8):
    """Write `<class>_sheet.png`: a row of views of each of the first objects, on white if they have no background."""
    rows = []
    for record in itertools.islice(records, objects):
        count = len(record["images"])
        images = record["images"][np.linspace(0, count, min(views, count), endpoint=False).astype(int)].astype(int)
        rgb = images[:, :3] + (0 if scenery.grounds else 255 - images[:, 3:])
        rows.append(np.concatenate(list(rgb.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)), 1))
    with disk.written_whole(os.path.join(folder, f"{class_id}_sheet.png"), "wb") as out:
        Image.fromarray(np.concatenate(rows)).save(out, "PNG")


def _write_rows(folder, stem, shape, dtype, rows):
    """Write an npz file of one array, row by row, so that the array is never in memory as a whole."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
    with disk.written_whole(os.path.join(folder, stem + ".npz"), "wb") as out, \
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, \
            archive.open("arr_0.npy", "w", force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, header)
        for row in rows:
            array.write(np.ascontiguousarray(row, dtype).tobytes())


def _write_npz(folder, stem, array=None, **arrays):
    with disk.written_whole(os.path.join(folder, stem + ".npz"), "wb") as out:
        np.savez_compressed(out, *([] if array is None else [array]), **arrays)


# ---- NIPS17 ---------------------------------------------------------------------------------------

def write_nips17(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None,
                 size=224):
    """Write renders/, voxels/ and splits.json, with 20 random views of each object. An object's folder appears only
    when it is complete. Depth is 16-bit, 12000 per unit, 65535 where there is nothing. With random light, lights.txt
    beside view.txt has a row like `scenery.FIXED` for each view."""
    import scipy.io
    progress, done = Progress(f"  {name}", sum(sizes.values()), " objects"), 0
    path = os.path.join(folder, "splits.json")
    known = read_splits(folder)[0] if os.path.exists(path) else {}
    volumes = os.path.join(folder, "voxels", "modelVoxels32", class_id)
    scenery, missing = scenery or Scenery(class_id, seed), []
    splits = {split: [f"{split}_{i:05d}" for i in range(count)] for split, count in sizes.items()}
    try:
        os.makedirs(volumes, exist_ok=True)
        for number, (split, names) in enumerate(splits.items()):
            for i, name_of_object in enumerate(names):
                vertices, faces, colors = make(split, i)[:3]
                missing += [list(lines) for lines in _missing_of(make).values()]
                vertices = within(vertices, 0.5)
                rng = np.random.default_rng([seed, number, i])
                count = train_views if split == "train" and train_views else dataset.count_of_views
                angles = np.stack([rng.uniform(-180, 180, count), rng.uniform(-20, 40, count),
                                   np.zeros(count), np.full(count, 2.0)], 1).round(6)
                target = os.path.join(folder, "renders", class_id, name_of_object)
                beside = target + ".part"
                shutil.rmtree(beside, ignore_errors=True)
                os.makedirs(beside)
                lights = scenery.lights(number, i, range(count))
                _write_views(dataset, beside, dataset.place(vertices), faces, colors, angles, size, lights,
                             lambda pictures, view, of=(number, i): scenery.put_behind(pictures, *of, view))
                with disk.written_whole(os.path.join(volumes, name_of_object + ".mat"), "wb") as out:
                    scipy.io.savemat(out, {"Volume": voxel_grid(dataset, vertices, faces).astype(np.uint8)},
                                     do_compression=True)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(beside, target)
                done += 1
                progress.update(done)
        disk.write_json(path, {**known, class_id: splits})
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from None
    return missing


def _write_views(dataset, folder, vertices, faces, colors, angles, size, lights, behind):
    cameras = torch.from_numpy(angles[:, [0, 1, 3]]).float()
    rgba = draw_rgba(dataset, vertices, faces, colors, cameras, size, FIXED if lights is None else lights)
    rgba = as_bytes(behind(rgba, range(len(angles)))).transpose(0, 2, 3, 1)
    screen = dataset.project(vertices[None].expand(len(cameras), -1, -1), cameras)
    _, _, depth = rasterize(screen, faces, image_size=size, anti_aliasing=False, near=0.1, far=100, eps=1e-3,
                            fill_back=True, depth=True)
    depth = np.where(depth.numpy() >= 100, 65535, depth.numpy() * 12000).astype(np.uint16)
    for k in range(len(cameras)):
        Image.fromarray(np.ascontiguousarray(rgba[k])).save(os.path.join(folder, f"render_{k}.png"))
        Image.fromarray(depth[k]).save(os.path.join(folder, f"depth_{k}.png"))
    with open(os.path.join(folder, "view.txt"), "w") as out:
        out.writelines(" ".join(f"{x:.6f}" for x in row) + "\n" for row in angles)
    _write_lights(folder, lights)


def _write_lights(folder, lights):
    if lights is not None:
        with open(os.path.join(folder, "lights.txt"), "w") as out:
            out.writelines(" ".join(f"{x:.6f}" for x in row) + "\n" for row in lights)


# ---- R2N2 -----------------------------------------------------------------------------------------

@dataclass
class R2N2Object:
    """Makes the record of an object, a dict of arrays: rgba (v, 137, 137, 4) uint8, rows (v, 5) of metadata, voxels
    (32, 32, 32), scale (the longest side of its box), and corner (3,) (the minimum of each coordinate)."""
    dataset: type
    make: object
    train_views: int | None
    seed: int
    scenery: Scenery

    def __call__(self, item):
        split, number, i = item
        vertices, faces, colors = self.make(split, i)[:3]
        vertices = self.dataset.place(vertices)
        used = vertices[faces.unique()]
        low, high = used.amin(0), used.amax(0)
        vertices = (vertices - (low + high) / 2) / (high - low).norm().clamp_min(1e-9)
        sides = (high - low) / (high - low).norm().clamp_min(1e-9)
        rng = np.random.default_rng([self.seed, number, i])
        count = self.train_views if split == "train" and self.train_views else self.dataset.count_of_views
        rows = np.stack([rng.uniform(0, 360, count), rng.uniform(25, 30, count), np.zeros(count),
                         rng.uniform(0.65, 0.95, count), np.full(count, 25)], 1).round(9)
        cameras = self._cameras(rows)
        seen = self.dataset.project(vertices[faces.unique()][None].expand(count, -1, -1), cameras)
        rows[(seen[..., :2].abs().amax((1, 2)) > 1).numpy(), 3] = 0.73  # at this distance every object fits
        lights = self.scenery.lights(number, i, range(count))
        rgba = draw_rgba(self.dataset, vertices, faces, colors, self._cameras(rows), PICTURE,
                         FIXED if lights is None else lights).permute(0, 2, 3, 1)
        rgba[..., :3] /= rgba[..., 3:].clamp_min(1 / 255)  # the released files have straight alpha
        scale = float(sides.max())
        voxels = self.dataset.voxelize(vertices[None] / max(scale, 1e-9), faces)[0].numpy()
        if not voxels.any():
            raise InputError(f"object {i} of {split} has no cell whose centre is inside: its mesh is open, or thinner "
                             "than a cell everywhere")
        return {"rgba": as_bytes(rgba.clamp(0, 1)), "rows": rows, "voxels": voxels, "scale": scale,
                "corner": (-sides / 2).numpy(), "lights": lights, **_missing_of(self.make)}

    @staticmethod
    def _cameras(rows):
        return torch.from_numpy(np.stack([rows[:, 0], rows[:, 1], DISTANCE * rows[:, 3]], 1)).float()


def write_r2n2(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write ShapeNetRendering/, ShapeNetVox32/ and splits.json, with 24 random views of each object at elevations of 25
    to 30 degrees, as in the released files. An object's folder appears only when it is complete. With random light,
    lights.txt beside the pictures has a row like `scenery.FIXED` for each."""
    progress, done = Progress(f"  {name}", sum(sizes.values()), " objects"), 0
    path = os.path.join(folder, "splits.json")
    known = read_splits(folder, path)[0] if os.path.exists(path) else {}
    splits = {split: [f"{split}_{i:05d}" for i in range(count)] for split, count in sizes.items()}
    one, missing = R2N2Object(dataset, make, train_views, seed, scenery or Scenery(class_id, seed)), []
    try:
        for number, (split, names) in enumerate(splits.items()):
            records = in_order(one, [(split, number, i) for i in range(len(names))], workers)
            for object_name, record in zip(names, records):
                target = os.path.join(folder, "ShapeNetRendering", class_id, object_name)
                grid = os.path.join(folder, "ShapeNetVox32", class_id, object_name)
                beside = target + ".part"
                shutil.rmtree(beside, ignore_errors=True)
                os.makedirs(os.path.join(beside, "rendering"))
                os.makedirs(grid, exist_ok=True)
                _write_renderings(os.path.join(beside, "rendering"), record)
                with disk.written_whole(os.path.join(grid, "model.binvox"), "wb") as out:
                    out.write(binvox(record["voxels"], record["corner"], record["scale"]))
                shutil.rmtree(target, ignore_errors=True)
                os.replace(beside, target)
                done += 1
                progress.update(done)
                missing += [list(record["missing"])] if "missing" in record else []
        disk.write_json(path, {**known, class_id: splits})
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from None
    return missing


def _write_renderings(folder, record):
    names = [f"{k:02d}.png" for k in range(len(record["rgba"]))]
    for name, picture in zip(names, record["rgba"]):
        Image.fromarray(picture).save(os.path.join(folder, name))
    with open(os.path.join(folder, "rendering_metadata.txt"), "w") as out:
        out.writelines(" ".join(f"{x:.12g}" for x in row) + "\n" for row in record["rows"])
    with open(os.path.join(folder, "renderings.txt"), "w") as out:
        out.writelines(name + "\n" for name in names)
    _write_lights(folder, record["lights"])


def binvox(grid, translate, scale):
    """The bytes of a .binvox file of a grid (X, Y, Z) bool: x slowest and y fastest, runs of at most 255 cells."""
    cells = np.ascontiguousarray(grid.transpose(0, 2, 1)).reshape(-1).astype(np.uint8)
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    runs = bytearray()
    for start, length in zip(starts, np.diff(np.append(starts, len(cells)))):
        whole, rest = divmod(int(length), 255)
        value = int(cells[start])
        runs += bytes([value, 255]) * whole + (bytes([value, rest]) if rest else b"")
    x, y, z = grid.shape
    head = (f"#binvox 1\ndim {x} {z} {y}\ntranslate {' '.join(f'{t:.9g}' for t in translate)}\nscale {scale:.9g}\n"
            "data\n")
    return head.encode() + bytes(runs)


# ---- Pascal3D -------------------------------------------------------------------------------------

PARTS = {"train": ("train", "imagenet"), "val": ("val",)}


def write_pascal3d(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None,
                   side=224):
    """Write `<name>_{train,imagenet,val}.npz` with pictures similar to photographs: an object on a coloured background,
    160 to 400 px. A quarter of the training objects are in the imagenet file. With random light the files also have
    `lights`, float32 (N, 5): rows like `scenery.IN_PICTURE`, in the viewer's frame (x right, y up, z to the viewer)."""
    progress, done = Progress(f"  {name}", sum(sizes.values()), " objects"), 0
    scenery, missing = scenery or Scenery(class_id, seed), []
    for number, (split, count) in enumerate(sizes.items()):
        items = []
        for i in range(count):
            shape = make(split, i)[:3]
            missing += [list(lines) for lines in _missing_of(make).values()]
            lights = scenery.lights(number, i, [0])
            ground = (lambda size, of=(number, i): scenery.ground(*of, 0, size)) if scenery.grounds else None
            items.append((*_photograph(dataset, *shape, np.random.default_rng([seed, number, i]), side,
                                       IN_PICTURE if lights is None else lights[0], ground), lights))
            done += 1
            progress.update(done)
        cut = count - count // 4 if split == "train" else count
        for part, mine in zip(PARTS[split], (items[:cut], items[cut:])):
            if not mine:
                continue
            images = np.empty(len(mine), object)
            images[:] = [item[0] for item in mine]
            rest = [np.stack(column) for column in list(zip(*mine))[1:5]]
            lights = {} if mine[0][5] is None else {"lights": np.concatenate([item[5] for item in mine])}
            _write_npz(folder, f"{dataset.class_name(class_id)}_{part}", images=images, images_ref=rest[0],
                       bounding_boxes=rest[1], rotation_matrices=rest[2].astype(np.float32), voxels=rest[3], **lights)
    return missing


def _photograph(dataset, vertices, faces, colors, rng, side, lights, ground):
    """(image (H, W, 3), reference crop (side, side, 4), box, rotation, voxels) of an object from a random camera. The
    box is centred in the crop. `lights` is a row in the viewer's frame; `ground` is None or a function of (H, W) that
    returns the background, (3, H, W)."""
    world = dataset.place(vertices)
    world = world * (1 / (1 + 2 * MARGIN) / max(float(world.norm(dim=1).max()), 1e-9))
    azimuth, elevation, roll = rng.uniform(-180, 180), rng.uniform(-10, 40), np.radians(rng.uniform(-5, 5))
    rotation = turntable_rotations(torch.tensor([azimuth]), torch.tensor([elevation]))[0].numpy()
    rotation = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]) @ rotation
    camera = torch.from_numpy(rotation).float()[None]
    height, width = (int(n) for n in rng.integers(160, 401, 2))
    crop = int(rng.integers(min(height, width) // 2, min(height, width)))
    top, left = (int(rng.integers(0, n - crop + 1)) for n in (height, width))
    # The light comes from above in the picture, whatever the rotation of the object.
    light = (*(rotation.T @ (np.array(lights[:3]) * [-1, 1, -1])), *lights[3:])
    rgba = draw_rgba(dataset, world, faces, colors, camera, crop, light)[0].permute(1, 2, 0).numpy()
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    slope, tint = rng.uniform(-0.3, 0.3, (2, 3)), rng.uniform(0.2, 0.8, 3)
    noise = rng.normal(0, 0.02, (height, width, 1))
    image = tint + rows[..., None] * slope[0] + columns[..., None] * slope[1] + noise
    if ground is not None:
        image = ground((height, width)).transpose(1, 2, 0).astype(np.float64)
    window = image[top:top + crop, left:left + crop]
    window *= 1 - rgba[..., 3:]
    window += rgba[..., :3]
    image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    mask = as_bytes(draw_rgba(dataset, world, faces, colors, camera, side, light))[0, 3]
    reference = np.asarray(Image.fromarray(image[top:top + crop, left:left + crop]).resize((side, side)))
    margin, hair = crop * MARGIN / (1 + 2 * MARGIN), 1e-6  # hair: readers truncate corners to whole pixels
    box = np.array([left + margin + hair, top + margin + hair, crop / (1 + 2 * MARGIN), crop / (1 + 2 * MARGIN)])
    voxels = dataset.voxelize(world[None], faces)[0].numpy()
    return image, np.concatenate([reference, mask[..., None]], 2), box, rotation, voxels
