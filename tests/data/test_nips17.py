"""The NIPS17 reader on hand-made files: values, pose bins, the cache, and refused files."""
import json
import os

import numpy as np
import pytest
import scipy.io
import torch
from datasets import NIPS17
from errors import InputError
from PIL import Image
from readers.decoded import read_numbers

CLASS = "02958343"
SIDE = 32  # side of the images here; the reader resizes images of any size


def write_object(folder, name, seed=0, views=20, alpha=True, depth_bits=16, rows=None):
    """Write an object; returns (rgb (v, S, S, 3), depth masks, alphas, rows, volume)."""
    rng = np.random.default_rng(seed)
    here = folder / "renders" / CLASS / name
    here.mkdir(parents=True)
    rgb = rng.integers(0, 256, (views, SIDE, SIDE, 3), dtype=np.uint8)
    mask, alphas = rng.random((2, views, SIDE, SIDE)) < .5
    for i in range(views):
        picture = np.concatenate([rgb[i], 255 * alphas[i, ..., None].astype(np.uint8)], 2) if alpha else rgb[i]
        Image.fromarray(picture).save(here / f"render_{i}.png")
        high = np.where(mask[i], rng.integers(0, 250, mask[i].shape), rng.integers(250, 256, mask[i].shape))
        low = rng.integers(0, 256, high.shape)
        depth = high.astype(np.uint8) if depth_bits == 8 else (high * 256 + low).astype(np.uint16)
        Image.fromarray(depth).save(here / f"depth_{i}.png")
    if rows is None:
        rows = np.stack([rng.uniform(-180, 180, views), rng.uniform(-20, 40, views), np.zeros(views),
                         rng.uniform(1.5, 2.5, views)], 1)
    np.savetxt(here / "view.txt", rows)
    volume = (rng.random((32, 32, 32)) < .3).astype(np.uint8)
    volumes = folder / "voxels" / "modelVoxels32" / CLASS
    volumes.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(volumes / f"{name}.mat", {"Volume": volume})
    return rgb, mask, alphas, rows, volume


def write_splits(folder, **splits):
    (folder / "splits.json").write_text(json.dumps({CLASS: splits}))


@pytest.fixture
def folder(tmp_path):
    """Objects a and b to train, c to test."""
    for k, name in enumerate("abc"):
        write_object(tmp_path, name, k)
    write_splits(tmp_path, train=["a", "b"], val=["c"], test=["c"])
    return tmp_path


def read(folder, split="test", say=None, **more):
    return NIPS17(str(folder), [CLASS], split, str(folder / "cache"), say=say or (lambda line: None), **more)



@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [True, False])
def test_values(tmp_path, bits, alpha):
    rgb, mask, alphas, rows, volume = write_object(tmp_path, "c", 2, alpha=alpha, depth_bits=bits)
    write_splits(tmp_path, test=["c"])
    data = read(tmp_path, img_size=SIDE)
    batch = data.gather(np.arange(20))
    assert len(data) == 20 and data.num_objects == 1 and batch.images.shape == (20, 4, SIDE, SIDE)
    np.testing.assert_allclose(batch.images[:, :3], rgb.transpose(0, 3, 1, 2) / 255, atol=1e-6)  # RGB, not BGR
    assert np.array_equal(batch.silhouettes, mask.astype(np.float32))
    assert torch.equal(batch.images[:, 3], batch.silhouettes)
    np.testing.assert_allclose(batch.cameras, rows[:, [0, 1, 3]], rtol=1e-6)
    assert batch.objects.tolist() == [0] * 20 and torch.equal(batch.poses, data.all_poses())
    assert np.array_equal(data.voxels(np.array([0]))[0], volume.astype(bool))
    if alpha:
        again = read(tmp_path, img_size=SIDE, mask_from="alpha").gather([3, 7])
        assert np.array_equal(again.silhouettes, alphas[[3, 7]].astype(np.float32))
    else:
        with pytest.raises(InputError, match="render_0.png has no alpha channel for --mask_from=alpha"):
            read(tmp_path, img_size=SIDE, mask_from="alpha")


def test_images_are_resized_with_anti_aliasing(tmp_path):
    """A fine checkerboard becomes grey, not black or white."""
    write_object(tmp_path, "c", 2)
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for i in range(20):
        Image.fromarray(np.stack([board] * 3, 2)).save(tmp_path / "renders" / CLASS / "c" / f"render_{i}.png")
        Image.fromarray(board).save(tmp_path / "renders" / CLASS / "c" / f"depth_{i}.png")
    write_splits(tmp_path, test=["c"])
    images = read(tmp_path).gather([0, 11]).images
    assert images.shape == (2, 4, 64, 64) and float((images - .5).abs().max()) < .02


@pytest.mark.parametrize("before, after", [((56, 40), 24), ((37, 50), 16), ((12, 17), 32), ((9, 9), 9)])
def test_resizing_is_that_of_the_published_program(before, after):
    """Compare with loops over pixels: a truncated Gaussian of (scale - 1) / 2, sampled bilinearly at the centres of the
    new pixels, mirrored at the border; and, if scikit-image is installed, with its `resize`."""
    from readers.nips17_files import resized
    image = np.random.default_rng(0).integers(0, 256, (4, *before)).astype(np.uint8)

    def smoothed(line, sigma):
        if sigma <= 0:
            return line
        reach = int(4 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        return np.convolve(np.pad(line, reach, "reflect"), weights / weights.sum(), "valid")

    def sampled(line, count):
        line = smoothed(line, (len(line) / count - 1) / 2)
        at = np.abs((np.arange(count) + 0.5) * len(line) / count - 0.5)
        return np.interp(np.where(at > len(line) - 1, 2 * (len(line) - 1) - at, at), np.arange(len(line)), line)
    wanted = np.apply_along_axis(sampled, 1, image.astype(float), after)
    wanted = np.apply_along_axis(sampled, 2, wanted, after)
    np.testing.assert_allclose(resized(image, after), wanted, atol=1e-9)
    try:
        from skimage.transform import resize
    except ImportError:
        return
    np.testing.assert_allclose(resized(image, after), 255 * resize(image, (4, after, after)), atol=1e-9)


def test_training_takes_the_first_views_and_evaluation_all(folder):
    first = np.loadtxt(folder / "renders" / CLASS / "a" / "view.txt")
    for count in (1, 3, 20):
        data = read(folder, "train", trainViews=count)
        assert len(data) == 2 * count and data.all_objects().tolist() == [0] * count + [1] * count
        np.testing.assert_allclose(data.gather(range(count)).cameras, first[:count][:, [0, 1, 3]], rtol=1e-6)
    assert len(read(folder, "train")) == 40 and len(read(folder, "val", trainViews=1)) == 20
    for count in (0, 21):
        with pytest.raises(InputError, match=f"--trainViews={count}: .* 20 views"):
            read(folder, "train", trainViews=count)


@pytest.mark.parametrize("azimuth, elevation, bin_15_20, bin_15_10, bin_50_25", [
    (-180, -20, 0, 0, 0), (180, 40, 71, 143, 23), (180, -20, 69, 138, 21), (-180, 40, 2, 5, 2),
    (0, 0, 37, 74, 9), (-165, 0, 4, 8, 0), (-165.01, -.01, 0, 1, 0), (179.99, 19.99, 70, 141, 22),
    (15, 20, 41, 82, 10), (-130, 5, 10, 20, 4)])
def test_pose_bins_by_hand(tmp_path, azimuth, elevation, bin_15_20, bin_15_10, bin_50_25):
    """floor((a + 180) / wA) * nE + floor((e + 20) / wE); 360/50 and 60/25 leave a narrower last bin."""
    rows = np.tile([azimuth, elevation, 0, 2.], (20, 1))
    write_object(tmp_path, "c", rows=rows)
    write_splits(tmp_path, test=["c"])
    for widths, count, wanted in (((15., 20.), 72, bin_15_20), ((15., 10.), 144, bin_15_10),
                                  ((50., 25.), 24, bin_50_25)):
        data = read(tmp_path, wAzimuth=widths[0], wElevation=widths[1])
        assert data.num_poses == count == NIPS17.count_poses({"wAzimuth": widths[0], "wElevation": widths[1]})
        assert data.gather([5]).poses.tolist() == [wanted], widths


def test_decoded_once_and_anew_when_a_file_changes(folder):
    first = read(folder).gather(range(20))
    before = sorted(os.listdir(folder / "cache"))
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "cache").rglob("*")}
    again = read(folder)
    assert isinstance(again._images[0], np.memmap) and not again._images[0].flags.writeable
    assert {p: p.stat().st_mtime_ns for p in (folder / "cache").rglob("*")} == stamps
    path = folder / "renders" / CLASS / "c" / "render_4.png"
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(path)
    changed = read(folder).gather(range(20))
    assert float(changed.images[4, :3].max()) == 0 and torch.equal(changed.images[5], first.images[5])
    after = sorted(os.listdir(folder / "cache"))
    assert len(after) == len(before) and after != before, "the old copy went"


def test_split_file(folder):
    (folder / "other.json").write_text(json.dumps({CLASS: {"test": ["b"]}}))
    data = read(folder, split_file=str(folder / "other.json"))
    assert data.names == [["b"]]


# ---- refusals ---------------------------------------------------------------------------------------

def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def without(path):
    path.unlink()


def short(path):
    path.write_text("\n".join(path.read_text().splitlines()[:7]))


def line(text):
    return lambda path: path.write_text(text + "\n" + path.read_text())


BROKEN = {
    "view.txt missing": ("view.txt", without, "there is no .*a/view.txt"),
    "few views": ("view.txt", short, "a/view.txt has 7 views, but 20 are needed"),
    "few numbers": ("view.txt", line("1 2 0"), "a/view.txt has 3 numbers in row 0"),
    "words": ("view.txt", line("one two 0 2"), "a/view.txt must hold numbers"),
    "azimuth": ("view.txt", line("181 0 0 2"), "a/view.txt, row 0: azimuth 181"),
    "elevation": ("view.txt", line("0 41 0 2"), "a/view.txt, row 0: .*elevation 41"),
    "distance": ("view.txt", line("0 0 0 0"), "a/view.txt, row 0: .*distance 0"),
    "nan": ("view.txt", line("nan 0 0 2"), "a/view.txt, row 0"),
    "render missing": ("render_3.png", without, "there is no .*a/render_3.png"),
    "render truncated": ("render_3.png", truncated, "a/render_3.png is not a PNG that can be read"),
    "depth truncated": ("depth_7.png", truncated, "a/depth_7.png is not a PNG that can be read"),
    "depth missing": ("depth_7.png", without, "there is no .*a/depth_7.png"),
    "depth of another size": ("depth_7.png", lambda path: Image.new("L", (9, 8)).save(path),
                              "a/depth_7.png is 9x8, render_7.png 32x32"),
    "grey": ("render_0.png", lambda path: Image.new("L", (32, 32)).save(path),
             "a/render_0.png must be RGB or RGBA"),
    "text": ("render_0.png", lambda path: path.write_text("hello"), "a/render_0.png is not a PNG")}
VOLUMES = {
    "missing": (without, "there is no .*a.mat"),
    "truncated": (truncated, "a.mat is not a .mat file that can be read"),
    "another name": (lambda path: scipy.io.savemat(path, {"V": np.zeros(3)}), "a.mat has no `Volume`"),
    "another shape": (lambda path: scipy.io.savemat(path, {"Volume": np.zeros((32, 32))}),
                      r"shape \(32, 32, 32\), got"),
    "other values": (lambda path: scipy.io.savemat(path, {"Volume": np.full((32, 32, 32), .5)}),
                     "must be 0 and 1")}


def check_broken(folder, sentence):
    with pytest.raises(InputError, match=sentence):
        read(folder, "train")
    assert not [p for p in (folder / "cache").rglob("*") if ".part" in p.name], "nothing half decoded stays"
    said = []
    data = read(folder, "train", said.append, skip_bad=True)
    assert data.names == [["b"]] and len(data) == 20 and data.gather([0]).objects.tolist() == [0]
    whole = scipy.io.loadmat(folder / "voxels/modelVoxels32" / CLASS / "b.mat")["Volume"]
    assert np.array_equal(data.voxels(np.array([0]))[0], whole.astype(bool))
    assert len(said) == 2 and "(1)" in said[0] and f"{CLASS}/a: " in said[1]
    with pytest.raises(InputError, match=sentence):  # from the cache, too
        read(folder, "train")


@pytest.mark.parametrize("case", BROKEN)
def test_broken_objects_are_named_or_left_out(folder, case):
    name, breaking, sentence = BROKEN[case]
    breaking(folder / "renders" / CLASS / "a" / name)
    check_broken(folder, sentence)


@pytest.mark.parametrize("case", VOLUMES)
def test_broken_volumes_are_named_or_left_out(folder, case):
    breaking, sentence = VOLUMES[case]
    breaking(folder / "voxels" / "modelVoxels32" / CLASS / "a.mat")
    check_broken(folder, sentence)


def test_no_object_that_is_whole(folder):
    (folder / "renders" / CLASS / "c" / "view.txt").unlink()
    with pytest.raises(InputError, match=f"leaves no object of {CLASS} in test"):
        read(folder, skip_bad=True)


@pytest.mark.parametrize("splits, sentence", [
    (None, "there is no .*splits.json"), ("{", "cannot be read as JSON"), ("[]", "must hold {class:"),
    ('{"03001627": {}}', f"no class {CLASS}; classes there: 03001627"),
    (json.dumps({CLASS: {"train": ["a"]}}), "no objects"), (json.dumps({CLASS: {"test": []}}), "lists no objects"),
    (json.dumps({CLASS: {"test": ["../a"]}}), "not the name of a"),
    (json.dumps({CLASS: {"test": ["gone"]}}), "there is no .*gone/view.txt"),
    (json.dumps({CLASS: {"test": [3]}}), "no objects"),
    (json.dumps({CLASS: {"test": ["a", "a"]}}), "lists a of .* twice")])
def test_splits_that_cannot_be_followed(folder, splits, sentence):
    (folder / "splits.json").unlink()
    if splits is not None:
        (folder / "splits.json").write_text(splits)
    with pytest.raises(InputError, match=sentence):
        read(folder)


def test_in_plane_angles_are_said(folder):
    said = []
    rows = np.tile([0, 0, 30., 2.], (20, 1))
    np.savetxt(folder / "renders" / CLASS / "c" / "view.txt", rows)
    read(folder, say=said.append)
    assert len(said) == 1 and "in-plane angles" in said[0] and "30.0" in said[0]


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf-30.5 20 0 1.5\r\n", "-30.5 20 0 1.5\n".encode("utf-16"),
                                  b"# azimuth, elevation, angle, distance\n-30.5, 20, 0, 1.5  # front\n\n"])
def test_cameras_as_editors_write_them(text, tmp_path):
    (tmp_path / "view.txt").write_bytes(text)
    assert read_numbers(str(tmp_path / "view.txt")) == [[-30.5, 20, 0, 1.5]]
