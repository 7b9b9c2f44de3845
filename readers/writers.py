"""Write the files of a class in the published layouts, from meshes, for the built-in data and `make_dataset`.

A dataset's `writer` is one of these functions as a class method. It is called as dataset.writer(folder, class_id,
sizes, make, train_views, seed, name): sizes {split: number of objects}; make(split, i) returns (vertices, faces,
colors) of one object in the people frame; train_views is the number of views of each training object (None: all); name
is shown with the progress. If light or background vary, `scenery` is a `making.scenery.Scenery`. The writer returns a
list with an entry for each object whose `make` lists `missing` files: its sentences about them. The renderer draws the
pictures with the dataset's cameras, the voxeliser makes the grids in the dataset's axes.
"""
import abc
import contextlib
import io
import itertools
import os
import pickle
import shutil
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from engine import disk
from engine.monitor import Progress
from errors import InputError, WriteError
from making import cubes, records
from making.grids import turn_grid
from making.looks import Look
from making.scenery import FIXED, IN_PICTURE, Scenery
from making.workers import Journal, in_order
from metrics.surfaces import PER_OBJECT, draw_points
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.ops import rasterize

from .conventions import VOXEL_GRID
from .nips17_files import read_splits
from .pascal3d_cameras import MARGIN, turntable_rotations
from .r2n2_files import DISTANCE, PICTURE

LIGHT = (0.35, 0.85, -0.4)  # direction to the light in the renderer's frame: above, slightly right and in front


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


# ---- objects one by one ---------------------------------------------------------------------------

FORMAT = 2  # of the records; raise it when the program makes other records of the same object


@dataclass
class Maker(abc.ABC):
    """Makes the objects of a class, in any process. maker((split, number of the split, i)) returns the record of an
    object as bytes. Each record has `points`, float16 (10000, 6): points on the surface in the renderer's frame and
    their unit normals (see metrics/surfaces.py), and `missing` if files of the object are.

    make : called as make(split, i); returns (vertices, faces, colors), or (vertices, faces, colors, grid).
    """
    dataset: type
    make: object
    train_views: int | None
    seed: int
    folder: str
    class_id: str
    scenery: Scenery

    def __call__(self, item):
        split, number, i = item
        vertices, faces, colors, *grid = self.make(split, i)
        try:
            placed, record = self.record(split, number, i, np.random.default_rng([self.seed, number, i]), vertices,
                                         faces, colors, *grid)
            points = draw_points(placed[None], faces, seed=[self.seed, number, i, 1])
        except OSError as error:
            raise WriteError(f"cannot write {self.folder}: {error.strerror or error}") from None
        record["points"] = torch.cat(points, 2)[0].half().numpy()
        if getattr(self.make, "missing", None):  # sentences about files that the object lacks
            record["missing"] = np.array(self.make.missing)
        return records.to_bytes(record)

    @abc.abstractmethod
    def record(self, split, number, i, rng, vertices, faces, colors, grid=None):
        """(vertices in the renderer's frame, dict of arrays) of an object. A layout with files for each object writes
        them here."""

    def views(self, split):
        """The number of views of each object."""
        return self.train_views if split == "train" and self.train_views else self.dataset.count_of_views


@contextlib.contextmanager
def journals(maker, sizes, name, workers):
    """Make all objects on all cores, with a line of progress. A context: gives {split: records as bytes}.

    The records are in `<class>_<split>.part` until the context ends without an error, so that an interrupted call
    continues at the object where it stopped.
    """
    progress, kept, folder = Progress(f"  {name}", sum(sizes.values()), " objects"), {}, maker.folder
    disk.make_folder(folder, "--data_dir")
    key = pickle.dumps((FORMAT, replace(maker, folder=""), sizes))
    try:
        items = []
        for number, (split, count) in enumerate(sizes.items()):
            kept[split] = Journal(os.path.join(folder, f"{maker.class_id}_{split}.part"), key)
            items += [(split, number, i) for i in range(len(kept[split]), count)]
        done = progress.first = progress.total - len(items)
        for (split, *_), record in zip(items, in_order(maker, items, workers)):
            kept[split].append(record)
            done += 1
            progress.update(done)
        yield kept
    except BaseException as error:
        for journal in kept.values():  # after an InputError the files will change, so nothing can be reused
            journal.close() if len(journal) and not isinstance(error, InputError) else journal.remove()
        raise
    for journal in kept.values():
        journal.remove()


def points_file(folder, class_id, split, count):
    """The `rows_file` for the points of a split."""
    return records.rows_file(folder, f"{class_id}_{split}_points", (count, PER_OBJECT, 6), np.float16,
                             compressed=False)


# ---- CVPR18 ---------------------------------------------------------------------------------------

@dataclass
class CVPR18Object(Maker):
    """The record has images (v, 4, 64, 64) and voxels (32, 32, 32), both `deflated`, and shown (v,). If the object is a
    grid, also `overlap`, the IoU of the grid and its voxelised surface, and `cut`, whether a view cuts the object
    off."""

    def record(self, split, number, i, rng, vertices, faces, colors, grid=None):
        shown = np.sort(rng.permutation(self.dataset.num_views)[:self.views(split)])
        lights = self.scenery.lights(number, i, shown)
        images = draw_views(self.dataset, vertices, faces, colors, torch.from_numpy(shown),
                            FIXED if lights is None else lights,
                            lambda pictures: self.scenery.put_behind(pictures, number, i, shown))
        voxels, placed = voxel_grid(self.dataset, vertices, faces), self.dataset.place(vertices)
        more = {} if lights is None else {"lights": lights}
        if grid is not None:
            given = dataset_grid(self.dataset, grid)
            union = max(int((given | voxels).sum()), 1)
            seen = self.dataset.project(placed[None].expand(len(shown), -1, -1), torch.from_numpy(shown))
            more |= {"overlap": (given & voxels).sum() / union, "cut": bool(seen[..., :2].abs().max() > 1)}
            voxels = given
        return placed, {"images": records.deflated(images), "voxels": records.deflated(voxels),
                        "shown": shown.astype(np.uint8), **more}


def dataset_grid(dataset, grid):
    """Convert a grid in the people frame, axis k along coordinate k, to the dataset's axes: (32, 32, 32) bool."""
    placed = turn_grid(grid, dataset.place(torch.eye(3)).T.numpy())
    return dataset.grid_axes(torch.from_numpy(placed)).numpy()


def write_cvpr18(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write `<class>_<split>_{images,voxels,points}.npz`, and `<class>_train_views.npz` if there are fewer than all
    views. With random light, also `<class>_<split>_lights.npz`: float32 (N, v, 5), rows like `scenery.FIXED`."""
    scenery = scenery or Scenery(class_id, seed)
    maker = CVPR18Object(dataset, make, train_views, seed, folder, class_id, scenery)
    grids, missing = [], []
    with journals(maker, sizes, name, workers) as kept:
        for split, count in sizes.items():
            views, side, shown, lights = maker.views(split), dataset.img_size, [], []
            with records.rows_file(folder, f"{class_id}_{split}_images", (count, views, 4, side, side),
                                   np.uint8) as images, \
                    records.rows_file(folder, f"{class_id}_{split}_voxels", (count, *(VOXEL_GRID,) * 3),
                                      bool) as voxels, points_file(folder, class_id, split, count) as points:
                for record in map(records.from_bytes, kept[split]):
                    images(record["images"])
                    voxels(record["voxels"])
                    points(record["points"])
                    shown.append(record["shown"])
                    lights += [record["lights"]] if "lights" in record else []
                    missing += missing_of(record)
                    if "overlap" in record:
                        grids.append((float(record["overlap"]), bool(record["cut"])))
            if split == "train" and views < dataset.num_views:
                _write_npz(folder, f"{class_id}_train_views", np.stack(shown))
            if lights:
                _write_npz(folder, f"{class_id}_{split}_lights", np.stack(lights))
            if split == "train":
                _write_sheet(folder, class_id, kept[split], (views, 4, side, side), scenery)
    if grids:
        overlap, cut = np.mean(grids, 0)
        print(f"  {name}: the voxels are the given grids, rotated; the IoU with their surfaces, voxelised by the "
              f"published rule, is {overlap:.3f}" + (f"; {cut:.1%} of the objects are too large for a picture at the "
                                                     "grid's scale and are cut off there" if cut else ""))
    return missing


def missing_of(record):
    """[[sentences about files that the object lacks]], or [] if it lacks none."""
    return [list(map(str, record["missing"]))] if "missing" in record else []


def _write_sheet(folder, class_id, kept, shape, scenery, objects=8, views=8):
    """Write `<class>_sheet.png`: a row of views of each of the first objects, on white if they have no background."""
    rows = []
    for record in map(records.from_bytes, itertools.islice(kept, objects)):
        images = records.inflated(record["images"], shape, np.uint8)
        images = images[np.linspace(0, len(images), min(views, len(images)), endpoint=False).astype(int)].astype(int)
        rgb = images[:, :3] + (0 if scenery.grounds else 255 - images[:, 3:])
        rows.append(np.concatenate(list(rgb.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)), 1))
    with disk.written_whole(os.path.join(folder, f"{class_id}_sheet.png"), "wb") as out:
        Image.fromarray(np.concatenate(rows)).save(out, "PNG")


def _write_npz(folder, stem, array=None, **arrays):
    with disk.written_whole(os.path.join(folder, stem + ".npz"), "wb") as out:
        np.savez_compressed(out, *([] if array is None else [array]), **arrays)


# ---- NIPS17 and R2N2: a folder for each object -------------------------------------------------------------

def name_of(split, i):
    """The name of an object."""
    return f"{split}_{i:05d}"


@contextlib.contextmanager
def whole_folder(target):
    """A context: an empty folder that is renamed to `target` when the context ends without an error."""
    beside = target + ".part"
    shutil.rmtree(beside, ignore_errors=True)
    os.makedirs(beside)
    yield beside
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside, target)


def write_folders(maker, sizes, name, workers):
    """Write the folder of each object, which appears only when it is complete, then splits.json and
    `<class>_<split>_points.npz`, whose rows are in the order of splits.json."""
    path = os.path.join(maker.folder, "splits.json")
    known, missing = read_splits(maker.folder, path)[0] if os.path.exists(path) else {}, []
    with journals(maker, sizes, name, workers) as kept:
        for split, count in sizes.items():
            with points_file(maker.folder, maker.class_id, split, count) as add:
                for record in map(records.from_bytes, kept[split]):
                    add(record["points"])
                    missing += missing_of(record)
        disk.write_json(path, {**known, maker.class_id: {
            split: [name_of(split, i) for i in range(count)] for split, count in sizes.items()}})
    return missing


# ---- NIPS17 ---------------------------------------------------------------------------------------

MAT_HEAD = b"MATLAB 5.0 MAT-file"


@dataclass
class NIPS17Object(Maker):
    """Writes 20 random views of an object. Depth is 16-bit, 12000 per unit, 65535 where there is nothing."""
    size: int = 224

    def record(self, split, number, i, rng, vertices, faces, colors, grid=None):
        import scipy.io
        vertices, count = within(vertices, 0.5), self.views(split)
        angles = np.stack([rng.uniform(-180, 180, count), rng.uniform(-20, 40, count), np.zeros(count),
                           np.full(count, 2.0)], 1).round(6)
        placed, lights = self.dataset.place(vertices), self.scenery.lights(number, i, range(count))
        volumes = os.path.join(self.folder, "voxels", "modelVoxels32", self.class_id)
        os.makedirs(volumes, exist_ok=True)
        with whole_folder(os.path.join(self.folder, "renders", self.class_id, name_of(split, i))) as beside:
            _write_views(self.dataset, beside, placed, faces, colors, angles, self.size, lights,
                         lambda pictures, views: self.scenery.put_behind(pictures, number, i, views))
            volume = io.BytesIO()
            scipy.io.savemat(volume, {"Volume": voxel_grid(self.dataset, vertices, faces).astype(np.uint8)},
                             do_compression=True)
            with disk.written_whole(os.path.join(volumes, name_of(split, i) + ".mat"), "wb") as out:
                out.write(MAT_HEAD.ljust(116) + volume.getvalue()[116:])  # scipy's header contains the time
        return placed, {}


def write_nips17(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write renders/, voxels/, splits.json and the points. With random light, lights.txt beside the pictures has a row
    like `scenery.FIXED` for each."""
    return write_folders(NIPS17Object(dataset, make, train_views, seed, folder, class_id,
                                      scenery or Scenery(class_id, seed)), sizes, name, workers)


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
class R2N2Object(Maker):
    """Writes the grid of an object and 24 random views at elevations of 25 to 30 degrees, as in the released files."""

    def record(self, split, number, i, rng, vertices, faces, colors, grid=None):
        vertices = self.dataset.place(vertices)
        used = vertices[faces.unique()]
        low, high = used.amin(0), used.amax(0)
        vertices = (vertices - (low + high) / 2) / (high - low).norm().clamp_min(1e-9)
        sides = (high - low) / (high - low).norm().clamp_min(1e-9)
        count = self.views(split)
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
        path = os.path.join(self.folder, "ShapeNetVox32", self.class_id, name_of(split, i))
        os.makedirs(path, exist_ok=True)
        with whole_folder(os.path.join(self.folder, "ShapeNetRendering", self.class_id, name_of(split, i))) as beside:
            _write_renderings(os.path.join(beside, "rendering"), as_bytes(rgba.clamp(0, 1)), rows, lights)
            with disk.written_whole(os.path.join(path, "model.binvox"), "wb") as out:
                out.write(binvox(voxels, (-sides / 2).numpy(), scale))
        return vertices, {}

    @staticmethod
    def _cameras(rows):
        return torch.from_numpy(np.stack([rows[:, 0], rows[:, 1], DISTANCE * rows[:, 3]], 1)).float()


def write_r2n2(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write ShapeNetRendering/, ShapeNetVox32/, splits.json and the points. With random light, lights.txt beside the
    pictures has a row like `scenery.FIXED` for each."""
    return write_folders(R2N2Object(dataset, make, train_views, seed, folder, class_id,
                                    scenery or Scenery(class_id, seed)), sizes, name, workers)


def _write_renderings(folder, pictures, rows, lights):
    os.makedirs(folder)
    names = [f"{k:02d}.png" for k in range(len(pictures))]
    for name, picture in zip(names, pictures):
        Image.fromarray(picture).save(os.path.join(folder, name))
    with open(os.path.join(folder, "rendering_metadata.txt"), "w") as out:
        out.writelines(" ".join(f"{x:.12g}" for x in row) + "\n" for row in rows)
    with open(os.path.join(folder, "renderings.txt"), "w") as out:
        out.writelines(name + "\n" for name in names)
    _write_lights(folder, lights)


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


@dataclass
class Pascal3DObject(Maker):
    """The record has a row of each array of the files: image, images_ref, bounding_boxes, rotation_matrices, voxels,
    and with random light `lights`."""
    side: int = 224

    def record(self, split, number, i, rng, vertices, faces, colors, grid=None):
        scenery, lights = self.scenery, self.scenery.lights(number, i, [0])
        ground = (lambda size: scenery.ground(number, i, 0, size)) if scenery.grounds else None
        placed, columns = _photograph(self.dataset, vertices, faces, colors, rng, self.side,
                                      IN_PICTURE if lights is None else lights[0], ground)
        record = dict(zip(("image", "images_ref", "bounding_boxes", "rotation_matrices", "voxels"), columns))
        return placed, record if lights is None else {**record, "lights": lights[0]}


def write_pascal3d(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None, scenery=None):
    """Write `<name>_{train,imagenet,val}.npz` with pictures similar to photographs: an object on a coloured background,
    160 to 400 px. A quarter of the training objects are in the imagenet file; `<name>_train_points.npz` has the points
    of both files, in this order. With random light the files also have `lights`, float32 (N, 5): rows like
    `scenery.IN_PICTURE`, in the viewer's frame (x right, y up, z to the viewer)."""
    word, missing = dataset.class_name(class_id), []
    maker = Pascal3DObject(dataset, make, train_views, seed, folder, class_id, scenery or Scenery(class_id, seed))
    with journals(maker, sizes, name, workers) as kept:
        for split, count in sizes.items():
            whole, cut = map(records.from_bytes, kept[split]), count - count // 4 if split == "train" else count
            with points_file(folder, word, split, count) as add:
                for part, size in zip(PARTS[split], (cut, count - cut)):
                    columns = {}
                    for record in itertools.islice(whole, size):
                        add(record.pop("points"))
                        missing += missing_of(record)
                        record.pop("missing", None)
                        for column, value in record.items():
                            columns.setdefault(column, []).append(value)
                    if not size:
                        continue
                    images = np.empty(size, object)
                    images[:] = columns.pop("image")
                    rest = {column: np.stack(values) for column, values in columns.items()}
                    rest["rotation_matrices"] = rest["rotation_matrices"].astype(np.float32)
                    _write_npz(folder, f"{word}_{part}", images=images, **rest)
    return missing


def _photograph(dataset, vertices, faces, colors, rng, side, lights, ground):
    """(vertices in the renderer's frame, columns) of an object from a random camera. Columns: image (H, W, 3),
    reference crop (side, side, 4), box (centred in the crop), rotation, voxels. `lights` is a row in the viewer's
    frame; `ground` is None or a function of (H, W) that returns the background, (3, H, W)."""
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
    return world, (image, np.concatenate([reference, mask[..., None]], 2), box, rotation, voxels)
