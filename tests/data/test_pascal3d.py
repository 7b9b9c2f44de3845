"""The Pascal3D reader on hand-made files: crops, the flip, Euler bins, and refused files."""
import numpy as np
import pytest
import torch
from datasets import Pascal3D
from errors import InputError
from flat import bars, covered, overlap
from PIL import Image
from scipy.spatial.transform import Rotation

CAR = "02958343"


def turn(axis, degrees):
    a = np.radians(degrees)
    c, s = np.cos(a), np.sin(a)
    return np.array({"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
                     "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis])


def euler(y, z, x):
    """R = Rx Rz Ry."""
    return turn("x", x) @ turn("z", z) @ turn("y", y)


def arrays(n=3, seed=0, **given):
    """The arrays of a file: images of several sizes, each with a box, a mask, a rotation and voxels."""
    rng = np.random.default_rng(seed)
    images = np.empty(n, object)
    images[:] = [rng.integers(0, 256, (40 + 9 * i, 60 + 5 * i, 3), dtype=np.uint8) for i in range(n)]
    reference = rng.integers(0, 256, (n, 224, 224, 4), dtype=np.uint8)
    reference[..., 3] = 255 * (reference[..., 3] > 127)
    return {"images": images, "images_ref": reference, "bounding_boxes": np.tile([20., 10, 20, 20], (n, 1)),
            "rotation_matrices": Rotation.random(n, random_state=seed).as_matrix(),
            "voxels": rng.random((n, 32, 32, 32)) < .3, **given}


def write(folder, part="val", name="car", **given):
    made = arrays(**given)
    np.savez_compressed(folder / f"{name}_{part}.npz", **made)
    return made


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train", seed=1)
    write(tmp_path, "imagenet", seed=2, n=2)
    write(tmp_path, "val", seed=3)
    return tmp_path


def read(folder, split="val", say=None, **more):
    return Pascal3D(str(folder), [CAR], split, str(folder / "cache"), say=say or (lambda line: None), **more)


# ---- values -----------------------------------------------------------------------------------------


def bilinear(mask, side):
    """Resize with a triangle filter, two new pixels wide, around the centre of each new pixel."""
    scale = len(mask) / side
    distance = ((np.arange(side) + .5) * scale)[:, None] - (np.arange(len(mask)) + .5)
    weights = np.clip(1 - np.abs(distance) / scale, 0, None)
    weights /= weights.sum(1, keepdims=True)
    return weights @ mask @ weights.T


@pytest.mark.parametrize("side", [64, 128, 224])
def test_values(folder, side):
    made = arrays(seed=3)
    data = read(folder, img_size=side)
    batch = data.gather([2, 0, 1])
    assert len(data) == data.num_objects == 3 and batch.objects.tolist() == [2, 0, 1]
    for k, i in enumerate((2, 0, 1)):
        crop = made["images"][i][7:33, 17:43]  # 15 % of 20 px on each side
        wanted = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(batch.images[k], wanted.transpose(2, 0, 1), atol=2 / 255)
        mask = made["images_ref"][i, ..., 3]
        assert batch.silhouettes.shape[-1] == Pascal3D.silhouette_size(side) == (128 if side == 128 else 64)
        if side == 224:  # the nearest neighbour
            nearest = (np.arange(64) * 3.5).astype(int)
            np.testing.assert_allclose(batch.silhouettes[k], mask[np.ix_(nearest, nearest)] / 255, atol=1e-6)
        else:
            np.testing.assert_allclose(batch.silhouettes[k], bilinear(mask, side) / 255, atol=1.1 / 255)
        np.testing.assert_allclose(batch.cameras[k], made["rotation_matrices"][i], atol=1e-6)
    assert np.array_equal(data.voxels(np.array([1, 2])), made["voxels"][[1, 2]])


def test_imagenet_is_added_to_training(folder):
    data = read(folder, "train")
    rotations = np.concatenate([arrays(seed=s, n=n)["rotation_matrices"] for s, n in ((1, 3), (2, 2))])
    np.testing.assert_allclose(data.gather(range(5)).cameras, rotations, atol=1e-6)
    assert np.array_equal(data.voxels(np.array([4]))[0], arrays(seed=2, n=2)["voxels"][1])
    (folder / "car_imagenet.npz").unlink()
    said = []
    assert len(read(folder, "train", said.append)) == 3 and "no " in said[0] and "car_imagenet.npz" in said[0]


def test_images_of_one_size_that_numpy_stores_as_one_array(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 50, 60, 3), dtype=np.uint8)
    write(tmp_path, "train")
    write(tmp_path, images=pictures)
    data = read(tmp_path, img_size=64)
    assert float(data.gather([0, 1, 2]).images.std()) > 0
    np.testing.assert_allclose(data.gather([1]).images.mean(), pictures[1, 7:33, 17:43].mean() / 255, atol=.02)


def test_names_in_words_or_as_ids(folder):
    assert Pascal3D.available(str(folder)) == [CAR]
    for part in ("train", "imagenet", "val"):
        (folder / f"car_{part}.npz").rename(folder / f"{CAR}_{part}.npz")
    assert Pascal3D.available(str(folder)) == [CAR] and len(read(folder, "train")) == 5
    data = Pascal3D(str(folder), ["car"], "val", str(folder / "cache"))
    assert len(data) == 3


def test_boxes_are_clipped_to_the_image(tmp_path):
    boxes = np.array([[-30., -30, 40, 49], [50, 30, 100, 100], [59.4, 39.4, .2, .2]])
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    write(tmp_path, "train")
    write(tmp_path, images=pictures, bounding_boxes=boxes)
    images = read(tmp_path, img_size=64).gather([0, 1, 2]).images
    for k, crop in enumerate((pictures[0, :26, :16], pictures[1, 15:, 35:], pictures[2, 39:, 59:])):
        wanted = np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(images[k], wanted.transpose(2, 0, 1), atol=2 / 255)


def test_corners_of_a_crop_are_cut_as_published(tmp_path):
    """Corners are truncated, not rounded: 9.9 becomes 9, and 30.99 becomes 30. A corner left of the image is moved to
    its border."""
    from readers.pascal3d import cropped
    image = ramp(60, 60)
    box = np.array([9.9 + 0.15 * 16.2, -3.0, 16.2, 20.0])  # with its margins: x 9.9 to 30.96, y -6 to 20
    found = cropped(image, box, np.zeros(4), 64)
    wanted = np.asarray(Image.fromarray(image[0:20, 9:30]).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found.numpy().astype(int), wanted.transpose(2, 0, 1), atol=2)


# ---- augmentation in training --------------------------------------------------------------------------


def ramp(height, width):
    """An image with the column as red and the row as green."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 7)], 2).astype(np.uint8)


def test_jitter_moves_each_side_by_up_to_15_percent(tmp_path):
    pictures = np.empty(1, object)
    pictures[:] = [ramp(200, 250)]
    write(tmp_path, "train", n=1, images=pictures, bounding_boxes=np.array([[80., 60, 100, 80]]))
    data = read(tmp_path, "train", img_size=64)
    still = data.gather([0] * 5).images
    assert torch.equal(still[0], still[4])
    sides, flipped = [], []
    for step in range(1, 41):
        images = data.gather([0] * 10, step=step).images * 255
        red, green = images[:, 0].mean(1), images[:, 1].mean(2)
        ends = torch.sort(torch.stack([red[:, 0], red[:, -1]], 1), 1).values
        sides.append(torch.cat([ends, green[:, :1], green[:, -1:]], 1))
        flipped += (red[:, 0] > red[:, -1]).tolist()
    left, right, top, bottom = torch.cat(sides).T
    pixel = 2  # of the image, the first and last being half of one inside
    for side, base, size in ((left, 80 - 15 + 1, 100), (right, 180 + 15 - 1, 100), (top, 60 - 12 + 1, 80),
                             (bottom, 140 + 12 - 1, 80)):
        moved = side - base
        assert float(moved.abs().max()) < .15 * size + pixel and float(moved.max()) > .12 * size
        assert float(moved.min()) < -.12 * size and abs(float(moved.mean())) < .02 * size + .5
    assert .4 < np.mean(flipped) < .6
    assert np.abs(np.corrcoef([left.numpy(), right.numpy(), top.numpy()])[0, 1:]).max() < .15, "each side its own"


def test_what_a_step_sees_is_a_function_of_seed_and_step(folder):
    one, other = read(folder, "train"), read(folder, "train")
    other.gather([0, 1], step=8)
    for step in (1, 5):
        a, b = one.gather([0, 3, 4, 1], step=step), other.gather([0, 3, 4, 1], step=step)
        for field in ("images", "silhouettes", "cameras", "poses"):
            assert torch.equal(getattr(a, field), getattr(b, field))
    assert not torch.equal(one.gather([0], step=1).images, one.gather([0], step=2).images)
    reseeded = read(folder, "train", seed=1)
    assert not torch.equal(one.gather([0], step=1).images, reseeded.gather([0], step=1).images)


@pytest.fixture
def bars_folder(tmp_path):
    """24 images of one chiral object. Each box with its margin is exactly the picture; R is from formulas."""
    vertices, faces = bars()
    vertices = vertices * 1.4
    rotations = [euler(y, z, x) for y in range(0, 360, 60) for z in (-20, 20) for x in (-30, 30)]
    pictures, reference = np.empty(24, object), np.zeros((24, 224, 224, 4), np.uint8)
    for k, rotation in enumerate(rotations):
        mask = covered(vertices @ (np.diag([-1, 1, 1]) @ rotation).T[:, :2], faces, 224)
        reference[k] = 255 * mask[..., None]
        pictures[k] = reference[k, ..., :3].copy()
    box = np.array([.15, .15, 1, 1]) * 224 / 1.3 + [1e-6, 1e-6, 0, 0]
    write(tmp_path, "train", n=24, images=pictures, images_ref=reference, rotation_matrices=np.stack(rotations),
          bounding_boxes=np.tile(box, (24, 1)))
    return tmp_path, vertices, faces


def test_a_flipped_image_its_mask_and_its_camera_agree(bars_folder, monkeypatch):
    """The image shows the mirror image (z negated) of the object, and its camera is again a rotation."""
    from readers import pascal3d
    monkeypatch.setattr(pascal3d, "JITTER", 0)
    folder, vertices, faces = bars_folder
    data = read(folder, "train")
    plain, batch = data.gather(range(24)), data.gather(range(24), step=1)
    flipped = [k for k in range(24) if not torch.equal(plain.images[k], batch.images[k])]
    assert 6 < len(flipped) < 18
    for k in range(24):
        rotation = batch.cameras[k].double().numpy()
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5) and np.linalg.det(rotation) > 0
        shape = vertices * (1, 1, -1) if k in flipped else vertices
        drawn = covered(shape @ (np.diag([-1, 1, 1]) @ rotation).T[:, :2], faces, 224)
        assert overlap(drawn, batch.images[k, 0].numpy() > .5) >= .97
        small = drawn[np.ix_(np.arange(64) * 224 // 64, np.arange(64) * 224 // 64)]
        assert overlap(small, batch.silhouettes[k].numpy() > .5) >= .97
        assert batch.poses[k] == data.pose_bins(batch.cameras[k:k + 1])[0] < data.num_poses
    assert torch.equal(batch.images[flipped], plain.images[flipped].flip(-1))


def test_the_published_flip_mirrors_the_image_alone(bars_folder, monkeypatch):
    from readers import pascal3d
    monkeypatch.setattr(pascal3d, "JITTER", 0)
    data = read(bars_folder[0], "train", published_flip=True)
    plain, batch = data.gather(range(24)), data.gather(range(24), step=1)
    assert not torch.equal(plain.images, batch.images)
    for k in range(24):
        image, was = batch.images[k], plain.images[k]
        assert torch.equal(image, was) or torch.equal(image, was.flip(-1))
    for field in ("silhouettes", "cameras", "poses"):
        assert torch.equal(getattr(plain, field), getattr(batch, field))


# ---- pose bins ------------------------------------------------------------------------------------------

ANGLES = [((10, 5, 20), (4, 4, 4)), ((-170, -80, -170), (0, 2, 0)), ((179.95, 0, 180), (7, 4, 7)),
          ((-180, 44, -1), (0, 4, 3)), ((100, 46, 91), (6, 5, 6))]


def test_euler_bins_by_hand(tmp_path):
    """y, z, x of R = Rx Rz Ry; 64 b0 + 8 b1 + b2, numbered in ascending order over train and imagenet."""
    bins = [64 * a + 8 * b + c for _, (a, b, c) in ANGLES]
    rotations = np.stack([euler(*angles) for angles, _ in ANGLES])
    # 180 degrees may be computed as -180: the first and the last bin are neighbours.
    write(tmp_path, "train", n=3, rotation_matrices=rotations[[0, 1, 4]])
    write(tmp_path, "imagenet", n=2, rotation_matrices=rotations[[0, 0]])
    write(tmp_path, "val", n=3, rotation_matrices=rotations[[4, 0, 3]])
    train, val = (read(tmp_path, split, published_flip=True) for split in ("train", "val"))
    order = sorted({bins[0], bins[1], bins[4]})
    assert train.num_poses == val.num_poses == 3
    assert train.all_poses().tolist() == [order.index(bins[k]) for k in (0, 1, 4, 0, 0)]
    assert val.all_poses().tolist()[:2] == [order.index(bins[4]), order.index(bins[0])]
    assert val.all_poses()[2] >= val.num_poses, "a bin that training lacks"
    from readers.pascal3d import euler_bins
    for k in (0, 1, 4):
        assert int(euler_bins(torch.tensor(rotations[k:k + 1]))) == bins[k]
    for angle in (180, -180, 179.99):
        assert int(euler_bins(torch.tensor(euler(angle, 0, 0)[None]))) in (64 * 7 + 36, 36)


def test_bins_of_mirrored_images_are_numbered_too(folder):
    data, published = read(folder, "train"), read(folder, "train", published_flip=True)
    assert published.num_poses < data.num_poses <= 2 * published.num_poses
    for step in range(1, 20):
        assert int(data.gather(range(5), step=step).poses.max()) < data.num_poses
    assert read(folder).num_poses == data.num_poses


# ---- refusals -------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("which", ["images", "images_ref", "bounding_boxes", "rotation_matrices", "voxels"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_pickle_that_tries_to_run_code(tmp_path, which, skip):
    proof, evil = tmp_path / "it ran", np.empty(3, object)
    evil[:] = [np.zeros((4, 4, 3), np.uint8), Payload(proof), 0]
    write(tmp_path, "train")
    write(tmp_path, **{which: evil})
    sentence = "which could run code" if which == "images" else which
    with pytest.raises(InputError, match=f"car_val.npz.*{sentence}"):
        read(tmp_path, skip_bad=skip)
    assert not proof.exists()
    np.load(tmp_path / "car_val.npz", allow_pickle=True)[which]
    assert proof.exists(), "the payload works where it is let"


def changed(key, index, value):
    made = arrays()
    made[key][index] = value
    return {key: made[key]}


ONE_BAD = {
    "box to the right": (changed("bounding_boxes", 1, [70, 0, 5, 5]),
                         r"box 1 \(left 70, .* outside its image, 65x49"),
    "box above": (changed("bounding_boxes", 1, [0, -9, 5, 5]), "box 1 .* outside its image"),
    "box without width": (changed("bounding_boxes", 1, [9, 9, 0, 5]), "box 1 .* outside its image"),
    "box nan": (changed("bounding_boxes", 1, [9, 9, np.nan, 5]), "box 1 .* outside its image"),
    "scaled rotation": (changed("rotation_matrices", 1, 1.1 * np.eye(3)), "rotation matrix 1 is not a rotation"),
    "reflection": (changed("rotation_matrices", 1, np.diag([1, 1, -1])), "rotation matrix 1 is not a rotation"),
    "nan rotation": (changed("rotation_matrices", 1, np.nan), "rotation matrix 1 is not a rotation"),
    "empty mask": (changed("images_ref", 1, 0), "the mask of image 1 .* is empty"),
    "mask of ones": (changed("images_ref", 1, 1), "the mask of image 1 .* expected 255"),
    "grey image": (changed("images", 1, np.zeros((50, 60), np.uint8)),
                   r"image 1 must be a uint8 array \(H, W, 3\)"),
    "no image": (changed("images", 1, None), "image 1 must be a uint8 array"),
    "empty image": (changed("images", 1, np.zeros((0, 60, 3), np.uint8)), "image 1 must be a uint8 array"),
    "voxels": ({"voxels": np.where(np.arange(3)[:, None, None, None] == 1, .5, arrays()["voxels"])},
               "voxels of image 1 must be 0 and 1")}


@pytest.mark.parametrize("case", ONE_BAD)
def test_broken_images_are_named_or_left_out(tmp_path, case):
    given, sentence = ONE_BAD[case]
    write(tmp_path, "train")
    made = write(tmp_path, **given)
    with pytest.raises(InputError, match=f"car_val.npz: .*{sentence}"):
        read(tmp_path)
    said = []
    data = read(tmp_path, say=said.append, skip_bad=True)
    assert len(data) == 2 and data.all_objects().tolist() == [0, 1] and "(1)" in said[0] and len(said) == 2
    assert data.left_out == [said[1].strip()]
    np.testing.assert_allclose(data.gather([0, 1]).cameras, made["rotation_matrices"][[0, 2]], atol=1e-6)
    assert np.array_equal(data.voxels(np.array([1]))[0], made["voxels"][2].astype(bool))


@pytest.mark.parametrize("given, sentence", [
    ({"voxels": arrays(2)["voxels"]}, "3 bounding_boxes and 2 voxels"),
    ({"images": arrays(2)["images"]}, "2 images and 3 bounding_boxes"),
    ({"rotation_matrices": np.eye(3)}, "rotation_matrices must be numbers of shape"),
    ({"bounding_boxes": np.zeros((3, 5))}, r"bounding_boxes must be numbers of shape \(N, 4\)"),
    ({"images_ref": np.zeros((3, 224, 224, 3), np.uint8)}, "images_ref must be numbers"),
    ({"images_ref": np.zeros((3, 8, 8, 4), np.float32)}, "images_ref must be uint8"),
    ({"voxels": np.zeros((3, 31, 32, 32), bool)}, "voxels must be numbers of shape"),
    ({"images": np.zeros((3, 8, 8, 3))}, "`images` must hold uint8"),
    ({"images": np.array([np.zeros((4, 4, 3)), None, None], object)}, "type 'f8'"), ({"n": 0}, "has no images")])
def test_arrays_that_do_not_fit(tmp_path, given, sentence):
    write(tmp_path, "train")
    write(tmp_path, **given)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, skip_bad=True)


def test_damaged_and_missing_files_are_named(folder):
    path = folder / "car_val.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match="car_val.npz is damaged"):
        read(folder)
    assert not [p for p in (folder / "cache").rglob("*") if ".part" in p.name]
    path.unlink()
    with pytest.raises(InputError, match="there is no .*car_val.npz; classes there: 02958343"):
        read(folder)
    (folder / "car_train.npz").unlink()
    path.write_bytes(whole)
    with pytest.raises(InputError, match="there is no .*car_train.npz, whose poses"):
        read(folder)
    with pytest.raises(InputError, match="--trainViews=2"):
        read(folder, trainViews=2)
