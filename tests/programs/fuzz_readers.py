"""The readers that tests/programs/fuzz.py tests, with small valid files to damage."""
import collections
import contextlib
import functools
import gzip
import io
import json
import pathlib
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from types import SimpleNamespace

import coloured
import command
import images
import inference
import neural_renderer as nr
import numpy as np
import synthetic
import torch
from datasets import CVPR18
from engine import checkpoints, dashboard, lock, runs, weights
from errors import InputError
from models import Encoder, ResNetEncoder
from modes import compare
from PIL import Image
from readers import cache, nips17, nips17_files, pascal3d_files, points, r2n2_files, voxel_files, writers

# ---- files with checksums ---------------------------------------------------------------------------------

def zipped(**members):
    """A zip file with these members, uncompressed, like the files of numpy and torch."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def rezipped(original, name):
    """A function that replaces the member `name` of a zip file."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    return lambda data: zipped(**{**members, name: data})


def member(original, name):
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        return archive.read(name)


def png_of(data):
    """A PNG with the chunks in `data` (length, kind, content) and new checksums."""
    out, at = b"\x89PNG\r\n\x1a\n", 0
    while at + 8 <= len(data):
        length = min(int.from_bytes(data[at:at + 4], "big"), len(data) - at - 8)
        body = data[at + 4:at + 8 + length]
        out += data[at:at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 8 + length
    return out


def chunks_of(png):
    out, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at:at + 4], "big")
        out += png[at:at + 8 + length]
        at += 12 + length
    return out


# ---- whole files ----------------------------------------------------------------------------------------

RNG, RESNET = np.random.default_rng(0), ResNetEncoder(1)
CHECKPOINT = {"step": 3, "options": {"dataset": "CVPR18", "latent_dim": 4, "img_size": 64, "enc_width": 1,
                                     "class_ids": ["02958343"], "lr": 1e-4, "obj_dir": None, "symmetric": False},
              "models": {"E": {"a": torch.ones(3)}, "G": {}}, "rng": {}, "best": 0.5, "elapsed": 1.5}
OBJ = b"""mtllib a.mtl
v 0 0 0
v 1 0 0.5
v 0 1 1e-3
v 1 1 1
vt 0 0
vt 1 0.5
vt 0.25 1
usemtl skin
f 1/1 2/2 3/3
f -1/1 -2/2/7 3/3//
f 1 2 3 4
"""
# As other programs write them: a byte order mark, Latin-1, comments, a concave polygon, indices from the end.
OBJ_OF_PEOPLE = b"""\xef\xbb\xbf# R\xe4der
mtllib a.mtl # the library
v 2 0 0 1 0 0
v 2 1 0 # a corner
v 1 1 0
v 1 2 0
v 0 2 0
v 0 0 0
vt nan nan
vt 0 1
usemtl R\xe4der
f -6 -5 -4 \\
 -3 -2 -1 # an L
f 1/1 2/2 3/2
f 1 2
"""
# Latin-1, lines of old Macintoshes, triangles beside a concave quad; counts in the word OFF.
PLY_OF_PEOPLE = (b"\xef\xbb\xbfply\nformat ascii 1.0\ncomment R\xe4der\nelement vertex 4\nproperty float x\nproperty float y\n"
                 b"property double z\nelement face 2\nproperty list uchar int vertex_indices\nproperty uchar red\nend_header\n"
                 b"0 0 0\n2 1 0\n0 2 0\n.5 1 0\n4 0 1 2 3 9\n3 0 1 2 255\n").replace(b"\n", b"\r")
BINARY_PLY = (b"ply\nformat binary_big_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
              b"element face 2\nproperty list ushort short vertex_index\nend_header\n"
              + np.float32([[0, 0, 0], [2, 1, 0], [0, 2, 0], [.5, 1, 0]]).astype(">f4").tobytes()
              + np.array([4, 0, 1, 2, 3, 3, 0, 1, 2], ">i2").tobytes())
OFF_OF_PEOPLE = b"# R\xe4der\noff4 2 0 # counts\n0 0 0\n2 1 0 # c\n\n0 2 0\n.5 1 0\n4 0 1 2 3\n3 0 1 2 255 0 0\n"
MTL_OF_PEOPLE = b"\xef\xbb\xbfnewmtl R\xe4der\nKd 1 0 0 # red\nmap_Kd -clamp on -mm 0 1 a.png # x\nnewmtl skin\nKd 1\n"
MTL = b"newmtl skin\nKd 0.5 0.2 1\nmap_Kd -s 2 2 1 -o 0.5 a.png\nnewmtl other\nKd 1\n"
EVALUATION = {"protocol": {"objects": {"02958343": 2}, "step": 3, "split": "test", "checkpoint": "last"},
              **{key: {"02958343": 0.5} for key, _ in compare.COLUMNS}, "mean_iou": 0.5}
METRICS = b"".join(json.dumps(r).encode() + b"\n" for r in (
    {"step": 1, "time": 0.5, "silhouette": 0.5, "lr": 1e-4}, {"step": 2, "val_iou": 0.5, "val_iou_of": {"a": 1}},
    {"step": 3, "picture": "00003.png", "mesh": "00003.obj", "smoothness": None}))


def saved(write, *arguments, **more):
    out = io.BytesIO()
    write(*arguments, out, **more) if write is torch.save else write(out, *arguments, **more)
    return out.getvalue()


def picture(mode="RGBA", form="PNG", size=(24, 20)):
    grid = RNG.integers(0, 255, (size[1], size[0], 4), np.uint8)
    grid[..., 3] = 255 * (np.hypot(*(np.mgrid[:size[1], :size[0]] - np.array([size[1], size[0]])[:, None, None] // 2)) < 8)
    image = Image.fromarray(grid)
    image = Image.fromarray(grid[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    return saved(image.save, form)


def alpha_of(values):
    """A PNG whose alpha is these values (20, 24) or one number: nothing that tells an object, or an object."""
    grid = np.full((20, 24, 4), 255, np.uint8)
    grid[6:14, 8:16, :3], grid[..., 3] = 0, values
    return saved(Image.fromarray(grid).save, "PNG")


def mat():
    import scipy.io
    return saved(scipy.io.savemat, {"Volume": RNG.integers(0, 2, (32, 32, 32)).astype(np.uint8)})


def pascal():
    pictures = np.empty(3, object)
    pictures[:] = [RNG.integers(0, 255, (5 + i, 6, 3), np.uint8) for i in range(3)]
    return saved(np.savez, images=pictures, images_ref=RNG.integers(0, 255, (3, 8, 8, 4), np.uint8),
                 bounding_boxes=np.tile([0., 0, 5, 5], (3, 1)), rotation_matrices=np.tile(np.eye(3), (3, 1, 1)),
                 voxels=RNG.integers(0, 2, (3, 32, 32, 32)).astype(np.uint8))


GRID = RNG.random((32, 32, 32)) < 0.1


def archive(name, **members):
    """An archive of 3D-R2N2, not compressed within: what it packs is mutated too."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as packed:
        for path, data in members.items():
            entry = tarfile.TarInfo(f"{name}/02691156/a1/{path}")
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def meshes():
    import trimesh
    box = trimesh.creation.box()
    return {form: data.encode() if isinstance(data, str) else data for form in ("off", "ply", "stl", "glb")
            for data in [box.export(file_type=form)]}


def required(glb, *extensions):
    """A GLB that requires extensions of glTF."""
    length = int.from_bytes(glb[12:16], "little")
    text = json.dumps({**json.loads(glb[20:20 + length]), "extensionsRequired": extensions}).encode()
    text += b" " * (-len(text) % 4)
    rest = glb[20 + length:]
    return b"glTF" + b"".join(n.to_bytes(4, "little") for n in (2, 20 + len(text) + len(rest), len(text))) + b"JSON" \
        + text + rest


@functools.cache
def coloured_meshes():
    """Meshes with pictures, materials and colours, all in their own file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.glb"
        colours = RNG.integers(0, 255, (4, 4), np.uint8)
        coloured.write_gltf(path, [{"positions": coloured.QUAD, "faces": [[0, 1, 2], [0, 2, 3]], "material": 0,
                                    "uv": coloured.UV.astype("<f4"), "colour": colours}], images=[picture()],
                            samplers=[{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}],
                            textures=[{"source": 0, "sampler": 0}], materials=[{
                                "alphaMode": "MASK", "pbrMetallicRoughness": {
                                    "baseColorFactor": [.5, .5, 1, 1], "baseColorTexture": {
                                        "index": 0, "extensions": {"KHR_texture_transform": {"scale": [2, 2]}}}}}])
        glb = path.read_bytes()
    head = ("ply\nformat {}\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\nproperty float y\n"
            "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nproperty float s\n"
            "property float t\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n")
    rows = "0 0 0 9 0 0 0 0\n1 0 0 0 9 0 1 0\n1 1 0 0 0 9 1 1\n0 1 0 9 9 9 0 1\n4 0 1 2 3\n"
    off = "COFF\n4 2 0\n0 0 0 1 0 0\n1 0 0 0 1 0\n1 1 0 0 0 1\n0 1 .5 1 1 1\n3 0 1 2 255 0 0\n3 0 2 3\n"
    return {"a.glb": glb, "a.ply": (head.format("ascii 1.0") + rows).encode(), "a.off": off.encode(),
            "a.obj": OBJ, "a.mtl": MTL, "a.png": picture()}


# ---- readers --------------------------------------------------------------------------------------------

def read_npz(path):
    np.array(cache.open_npz(str(path), str(path.parent / "cache"), say=lambda _: None))


def read_obj(path, library=MTL):
    for name, data in (("a.mtl", library), ("a.png", picture())):
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(data)
    nr.load_obj(path.parent / "a.obj", load_texture=True, texture_size=2)


def read_part_of_obj(path):
    (path.parent / "a.obj").write_bytes(OBJ)
    read_obj(path)


def draw_mesh(path):
    for name, data in coloured_meshes().items():
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(data)
    mesh = synthetic.load_mesh(str(path if path.suffix not in (".mtl", ".png") else path.parent / "a.obj"))
    assert torch.isfinite(writers.draw_rgba(CVPR18, CVPR18.place(mesh[0]), *mesh[1:], torch.tensor([3]), 32)).all()


def read_metrics(path):
    follower = dashboard.Follower.__new__(dashboard.Follower)
    follower.folder, follower.offset, follower.inode, follower.latest = str(path.parent), 0, None, {}
    follower.curves, follower.pending = {window: {} for window in dashboard.CURVES}, set()
    follower.read()
    runs._forget_after(str(path), 2)


def read_options(path):
    follower = dashboard.Follower.__new__(dashboard.Follower)
    follower.folder, follower.client = str(path.parent), SimpleNamespace(text=lambda *_, **__: None)
    follower._options()


def read_evaluation(path):
    compare._evaluation(str(path.parent), "test", "last")


def read_description(path):
    synthetic._begin(str(path.parent), {"palette": "own", "layout": "CVPR18"}, "CVPR18")


def read_splits(path):
    nips17.objects_of_split(str(path.parent), ["02691156"], "train")


def read_pascal(path):
    pascal3d_files.open_part(str(path), str(path.parent / "cache"), False, say=lambda _: None)


def read_points(path):
    points.open_points((str(path.parent), str(path.parent / "cache"), lambda _: None), "a", 1)


def read_r2n2_grid(path):
    """Through the reader of an object; its pictures are left alone."""
    folder = path.parent / "vox" / "02691156" / "a1"
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    folders = {r2n2_files.RENDERING: str(path.parent), r2n2_files.VOX: str(path.parent / "vox")}
    r2n2_files.ClassReader(folders, "02691156", ["a1"], 0, 64).decoded("a1")


def read_archive(path):
    r2n2_files.unpacked(str(path), r2n2_files.VOX, str(path.parent / "cache"), say=lambda _: None)


def read_r2n2_splits(path):
    folder = path.parent / r2n2_files.RENDERING / "02691156"
    for name in "abc":
        (folder / name / "rendering").mkdir(parents=True)
    folders = {r2n2_files.RENDERING: str(path.parent / r2n2_files.RENDERING), r2n2_files.VOX: ""}
    r2n2_files.objects_to_read(str(path.parent), folders, "02691156", "val", str(path), False, lambda _: None)


def read_run(path):
    inference.load_run(path.parent)


def parse(path):
    """Parse arguments, one per line of the file."""
    words = path.read_bytes().decode(errors="replace").replace("\0", "").split("\n")
    with contextlib.suppress(SystemExit):
        command.script().parse([w for w in words if w not in ("-h", "--help")])


Reader = collections.namedtuple("Reader", "name files read errors wrap", defaults=((InputError,), None))


def whole_files():
    """Every reader with its files: ({name: bytes}, reader, its own errors, function that makes a whole file from the
    mutated bytes if they are only a part of it)."""
    named = (ValueError, OSError)  # of the library: the message must name the file
    checkpoint, arrays = saved(torch.save, CHECKPOINT), saved(np.save, RNG.integers(0, 9, (3, 4, 5), np.uint8))
    state = saved(torch.save, Encoder(4, 64, 4, 1).state_dict())
    models = saved(torch.save, {**CHECKPOINT, "models": {}})
    inner = zipfile.ZipFile(io.BytesIO(checkpoint)).namelist()[0].split("/")[0]
    form = meshes()
    part = pascal()
    views = b"-30.5 20 0 1.5\n100 -10.25 0.1 2\n0 0 0 1\n"
    splits = json.dumps({"02691156": {"train": ["a1", "b2"], "val": ["c"], "test": ["d"]}}).encode()
    listed = json.dumps([{"taxonomy_id": "02691156", "taxonomy_name": "plane", "train": ["a"], "val": ["b"],
                          "test": ["c"]}]).encode()
    binvox = writers.binvox(GRID, (0.5, -1, 0), 0.75)
    some_points = np.concatenate([RNG.random((1, 10000, 3)), np.tile([0, 0, 1.0], (1, 10000, 1))], 2).astype(np.float16)
    words = "\n".join(["--mode=train", "--ckpt_dir", "runs/x", "--lr=0.001", "--class_ids", "02958343", "0",
                       "--batch_size=16", "--eval_flag=best", "--on_nan=skip", "--decay_order", "0.5"]).encode()
    return [
        Reader("checkpoint", {"last.pt": checkpoint}, checkpoints.load),
        Reader("checkpoint, its pickle", {"last.pt": member(checkpoint, f"{inner}/data.pkl")}, checkpoints.load,
               wrap=rezipped(checkpoint, f"{inner}/data.pkl")),
        Reader("run", {"last.pt": member(models, f"{inner}/data.pkl")}, read_run,
               wrap=rezipped(models, f"{inner}/data.pkl")),
        Reader("weights", {"E.ckpt": state, "old.ckpt": saved(
            torch.save, {"a": torch.ones(3)}, _use_new_zipfile_serialization=False),
            "pickle.ckpt": pickle.dumps({"a": [1, 2.5, "b"]})}, lambda path: weights.read(str(path), "E")),
        Reader("ResNet weights", {"resnet.pth": saved(torch.save, RESNET.state_dict())},
               lambda path: weights.load_resnet(RESNET, str(path))),
        Reader("npz", {"a.npz": zipped(**{"arr_0.npy": arrays}), "packed.npz": saved(
            np.savez_compressed, RNG.integers(0, 9, (3, 40), np.uint8))}, read_npz),
        Reader("npz, its array", {"a.npz": arrays}, read_npz, wrap=lambda data: zipped(**{"arr_0.npy": data})),
        Reader("Pascal3D", {"car_train.npz": part}, read_pascal),
        *(Reader(f"Pascal3D, its {name}", {"car_train.npz": member(part, name + ".npy")},
                 read_pascal, wrap=rezipped(part, name + ".npy"))
          for name in ("images", "images_ref", "bounding_boxes", "voxels")),
        Reader("obj", {"a.obj": OBJ}, read_obj, named),
        Reader("obj of people", {"a.obj": OBJ_OF_PEOPLE}, lambda path: read_obj(path, MTL_OF_PEOPLE), named),
        Reader("mtl", {"a.mtl": MTL}, read_part_of_obj, named),
        Reader("mtl of people", {"a.mtl": MTL_OF_PEOPLE}, read_part_of_obj, named),
        Reader("texture", {"a.png": picture()}, read_part_of_obj, named),
        Reader("template", {"a.obj": OBJ}, lambda path: inference.load_template(str(path))),
        Reader("image", {
            "a.png": picture(), "b.png": picture("P"), "c.png": picture("I;16"), "d.png": picture("LA"),
            "a.jpg": picture("RGB", "JPEG"), "a.gif": picture("P", "GIF"), "a.bmp": picture("RGB", "BMP"),
            "a.webp": picture("RGBA", "WEBP"), "a.tif": picture("RGBA", "TIFF"),
            "nothing.png": alpha_of(254),
            "frame.png": alpha_of(np.pad(np.full((18, 22), 255), 1)), "one_pixel.png": alpha_of(255 * (np.arange(480).reshape(20, 24) > 0))},
               lambda path: (images.load_photo(str(path), 64), images.load_image(str(path), 64))),
        Reader("image, its chunks", {"a.png": chunks_of(picture()), "b.png": chunks_of(picture("P"))},
               lambda path: images.load_image(str(path), 64), wrap=png_of),
        Reader("depth", {"a.png": chunks_of(picture("I;16"))}, lambda path: nips17_files._depth_mask(str(path)),
               wrap=png_of),
        Reader("view.txt", {"view.txt": views}, lambda path: nips17_files.read_views(str(path), 2)),
        Reader("mat", {"a.mat": mat()}, lambda path: nips17_files.read_volume(str(path))),
        Reader("splits.json", {"splits.json": splits}, read_splits),
        Reader("R2N2, its picture", {"00.png": picture(size=(137, 137))},
               lambda path: r2n2_files.read_picture(str(path), 64)),
        Reader("R2N2, chunks of its picture", {"00.png": chunks_of(picture(size=(137, 137)))},
               lambda path: r2n2_files.read_picture(str(path), 64), wrap=png_of),
        Reader("R2N2, its cameras", {"rendering_metadata.txt": b"30.5 27.25 0 0.75 25\n-1e1 30 1e-3 0.9 25\n"},
               lambda path: r2n2_files.read_cameras(str(path), 2)),
        Reader("R2N2, its grid", {"model.binvox": binvox}, read_r2n2_grid),
        Reader("R2N2, its splits", {"splits.json": listed, "other.json": json.dumps(
            {"02691156": {"train": ["a"], "val": ["b"]}}).encode()}, read_r2n2_splits),
        Reader("R2N2, its archive", {"ShapeNetVox32.tgz": gzip.compress(
            archive(r2n2_files.VOX, **{"model.binvox": binvox}))}, read_archive),
        Reader("R2N2, within its archive", {"ShapeNetVox32.tgz": archive(r2n2_files.VOX, **{"model.binvox": binvox})},
               read_archive, wrap=gzip.compress),
        Reader("voxel grids", {"a.binvox": writers.binvox(GRID[:5, :3, :7], (0, 0, 0), 1),
                               "a.npy": saved(np.save, GRID[:5, :3, :7]), "ints.npy": saved(
                                   np.save, GRID[:5, :3, :7].astype(np.float32)),
                               "a.npz": saved(np.savez_compressed, GRID[:5, :3, :7])},
               lambda path: voxel_files.read_voxels(str(path))),
        Reader("voxel grids, the array", {"a.npz": saved(np.save, GRID[:5, :3, :7])},
               lambda path: voxel_files.read_voxels(str(path)), wrap=lambda data: zipped(**{"arr_0.npy": data})),
        Reader("voxel grids as shapes", {"a.binvox": writers.binvox(GRID[:5, :6, :7], (0, 0, 0), 1)},
               lambda path: synthetic.load_grid(str(path))),
        Reader("points", {"a_points.npz": saved(np.savez, some_points)}, read_points),
        Reader("points, their array", {"a_points.npz": saved(np.save, some_points)}, read_points,
               wrap=lambda data: zipped(**{"arr_0.npy": data})),
        Reader("meshes of people", {f"a.{kind}": data for kind, data in {**form, "obj": OBJ}.items()} | {
            "people.obj": OBJ_OF_PEOPLE, "people.ply": PLY_OF_PEOPLE, "binary.ply": BINARY_PLY,
            "people.off": OFF_OF_PEOPLE, "looks.glb": required(form["glb"], "KHR_materials_unlit")},
               lambda path: synthetic.load_mesh(str(path))),
        Reader("coloured meshes", coloured_meshes(), draw_mesh),
        Reader("metrics.jsonl", {"metrics.jsonl": METRICS}, read_metrics),
        Reader("options.json", {"options.json": json.dumps({"options": CHECKPOINT["options"]}).encode()},
               read_options),
        Reader("evaluation.json", {"evaluation_test_last.json": json.dumps(EVALUATION).encode()}, read_evaluation),
        Reader("dataset.json", {"dataset.json": json.dumps(
            {"palette": "own", "layout": "CVPR18", "classes": ["02958343"]}).encode()}, read_description),
        Reader("run.lock", {"run.lock": json.dumps(lock._this_process()).encode()},
               lambda path: lock.check(str(path.parent))),
        Reader("options", {"words": words}, parse, ()),
    ]
