"""The CVPR18 reader on hand-written files in the published layout: values, cache, refusals."""
import glob
import io
import os
import zipfile

import numpy as np
import pytest
import torch
from datasets import CVPR18
from errors import InputError
from readers.cache import open_npz

CAR, CHAIR = "02958343", "03001627"


def make_arrays(n, views=24, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (n, views, 4, 64, 64), dtype=np.uint8),
            rng.random((n, 32, 32, 32)) < .3)


def write(folder, class_id=CAR, split="train", n=2, seed=0, views=24, images=None, voxels=None, shown=None):
    """Write one split of one class; returns (images, voxels) as written."""
    made = make_arrays(n, views, seed)
    images, voxels = made[0] if images is None else images, made[1] if voxels is None else voxels
    np.savez(folder / f"{class_id}_{split}_images.npz", images)
    np.savez(folder / f"{class_id}_{split}_voxels.npz", voxels)
    if shown is not None:
        np.savez(folder / f"{class_id}_train_views.npz", shown)
    return images, voxels


def read(folder, class_ids=(CAR,), split="train", **options):
    return CVPR18(str(folder), class_ids, split, str(folder / "cache"), **options)


# ---- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("voxel_type", [bool, np.uint8])
def test_reader_gives_what_the_files_hold(tmp_path, split, voxel_type):
    images, voxels = write(tmp_path, split=split, voxels=make_arrays(2)[1].astype(voxel_type))
    data = read(tmp_path, split=split)
    assert len(data) == 48 and data.num_objects == 2
    batch = data.gather(np.arange(48))
    assert batch.images.dtype == batch.silhouettes.dtype == torch.float32
    expected = images.reshape(48, 4, 64, 64) / 255
    np.testing.assert_allclose(batch.images, expected, atol=1e-7)
    np.testing.assert_allclose(batch.silhouettes, expected[:, 3], atol=1e-7)
    assert batch.images.max() == 1 and batch.images.min() == 0
    assert batch.cameras.tolist() == list(range(24)) * 2 and batch.poses.dtype == torch.int64
    assert torch.equal(batch.poses, batch.cameras) and torch.equal(data.all_poses(), batch.poses)
    assert batch.objects.tolist() == [0] * 24 + [1] * 24
    grids = data.voxels(np.array([1, 0, 1]))
    assert grids.dtype == torch.bool
    assert np.array_equal(grids, voxels[[1, 0, 1]].astype(bool))


def test_several_classes_are_counted_through(tmp_path):
    files = [write(tmp_path, CHAIR, n=1, seed=1), write(tmp_path, CAR, n=3, seed=2)]
    data = read(tmp_path, (CHAIR, CAR))
    assert data.object_class.tolist() == [0, 1, 1, 1] and len(data) == 96
    truth = [(c, n, v) for c, (images, _) in enumerate(files) for n in range(len(images)) for v in range(24)]
    chosen = np.random.default_rng(0).integers(0, 96, 40)
    batch = data.gather(chosen)
    for k, index in enumerate(chosen):
        c, n, v = truth[index]
        np.testing.assert_allclose(batch.images[k], files[c][0][n, v] / 255, atol=1e-7)
        assert (batch.cameras[k], batch.poses[k], batch.objects[k]) == (v, v, (0, 1)[c] + n)
    grids = data.voxels(np.array([3, 0, 2]))
    assert np.array_equal(grids, np.stack([files[1][1][2], files[0][1][0], files[1][1][1]]))
    assert data.images_of_class(0).tolist() == list(range(24))
    assert data.images_of_class(1).tolist() == list(range(24, 96))
    assert data.class_name(CAR) == "car" and data.class_name("mine") == "mine"
    assert CVPR18.available(str(tmp_path)) == [CAR, CHAIR]


# ---- some views -------------------------------------------------------------------------------------


def views_of(data):
    batch = data.gather(np.arange(len(data)))
    return [batch.cameras[batch.objects == o].tolist() for o in range(data.num_objects)], batch


@pytest.mark.parametrize("n", [1, 5, 24])
def test_train_views_are_drawn_once_for_each_seed(tmp_path, n):
    images, _ = write(tmp_path, n=6)
    data = read(tmp_path, trainViews=n, seed=3)
    views, batch = views_of(data)
    assert len(data) == 6 * n and all(len(set(v)) == n and set(v) <= set(range(24)) for v in views)
    for k in range(len(data)):
        np.testing.assert_allclose(batch.images[k], images[batch.objects[k], batch.cameras[k]] / 255, atol=1e-7)
    assert views_of(read(tmp_path, trainViews=n, seed=3))[0] == views
    if n < 24:
        assert views_of(read(tmp_path, trainViews=n, seed=4))[0] != views
        assert len(set(map(tuple, views))) > 1, "objects do not share their views"


def test_train_views_are_for_training_alone(tmp_path):
    write(tmp_path, split="val")
    assert len(read(tmp_path, split="val", trainViews=1)) == 48


@pytest.mark.parametrize("n", [0, 25])
def test_train_views_out_of_range(tmp_path, n):
    write(tmp_path)
    with pytest.raises(InputError, match=f"--trainViews={n}: the objects of {CAR} in .* have 24 views"):
        read(tmp_path, trainViews=n)


def test_a_training_set_with_few_views_names_them(tmp_path):
    shown = np.array([[0, 5, 23], [1, 2, 7]], np.uint8)
    images, _ = write(tmp_path, views=3, shown=shown)
    data = read(tmp_path)
    views, batch = views_of(data)
    assert views == shown.tolist() and batch.poses.tolist() == data.all_poses().tolist() == sum(views, [])
    np.testing.assert_allclose(batch.images, images.reshape(6, 4, 64, 64) / 255, atol=1e-7)
    some = read(tmp_path, trainViews=2)
    views, batch = views_of(some)
    for k in range(len(some)):
        o = int(batch.objects[k])
        place = shown[o].tolist().index(int(batch.cameras[k]))
        np.testing.assert_allclose(batch.images[k], images[o, place] / 255, atol=1e-7)
    with pytest.raises(InputError, match=f"--trainViews=4: the objects of {CAR} in .* have 3 views"):
        read(tmp_path, trainViews=4)


@pytest.mark.parametrize("shown", [
    None, np.array([[0, 5, 24], [1, 2, 7]]), np.array([[0, -1, 2], [1, 2, 7]]), np.zeros((2, 3)),
    np.array([[0, 5], [1, 2]]), np.array([[0, 5, 7]]), np.arange(6)])
def test_a_wrong_list_of_views_is_refused(tmp_path, shown):
    write(tmp_path, views=3, shown=shown)
    with pytest.raises(InputError, match=f"{CAR}_train_views.npz"):
        read(tmp_path)


# ---- the cache --------------------------------------------------------------------------------------


def test_files_are_unpacked_once_and_mapped(tmp_path):
    images, _ = write(tmp_path)
    source, cache = str(tmp_path / f"{CAR}_train_images.npz"), str(tmp_path / "cache")
    first = open_npz(source, cache)
    assert isinstance(first, np.memmap) and not first.flags.writeable and np.array_equal(first, images)
    copy, = glob.glob(cache + "/*")
    before = os.stat(copy).st_mtime_ns
    # Mark the copy. The mark shows that the second call reads the copy.
    marked = np.load(copy, mmap_mode="r+")
    marked[0, 0, 0, 0, 0] ^= 255
    marked.flush()
    os.utime(copy, ns=(before, before))
    second = open_npz(source, cache)
    assert second[0, 0, 0, 0, 0] == images[0, 0, 0, 0, 0] ^ 255
    assert glob.glob(cache + "/*") == [copy] and os.stat(copy).st_mtime_ns == before


def test_a_changed_source_is_unpacked_anew(tmp_path):
    write(tmp_path)
    read(tmp_path)
    source = tmp_path / f"{CAR}_train_images.npz"
    old = os.stat(source)
    changed, _ = write(tmp_path, seed=9)
    assert os.stat(source).st_size == old.st_size
    os.utime(source, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    np.testing.assert_allclose(read(tmp_path).gather([30]).images[0], changed[1, 6] / 255, atol=1e-7)
    assert len(os.listdir(tmp_path / "cache")) == 2, "the old copy went"


def test_folders_do_not_share_copies(tmp_path):
    for k, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, seed=k)
    one, other = (CVPR18(str(tmp_path / name), [CAR], "train", str(tmp_path / "cache")) for name in "ab")
    assert not torch.equal(one.gather([0]).images, other.gather([0]).images)


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_compressed_or_not_and_in_any_shape(tmp_path, compress):
    for array in (np.arange(24, dtype="<i4").reshape(2, 3, 4), np.zeros((0, 3)), np.array(5.0)):
        compress(tmp_path / "a.npz", array)
        read_back = open_npz(str(tmp_path / "a.npz"), str(tmp_path / "cache"))
        assert np.array_equal(read_back, array) and read_back.dtype == array.dtype
        os.remove(tmp_path / "a.npz")


# ---- refusals ---------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("which", ["images", "voxels"])
def test_object_arrays_are_refused_and_do_not_run(tmp_path, which):
    proof, evil = tmp_path / "it ran", np.empty(2, object)
    evil[0] = Payload(proof)
    write(tmp_path, **{which: evil})
    with pytest.raises(InputError, match=f"{CAR}_train_{which}.npz holds Python objects"):
        read(tmp_path)
    assert not proof.exists()
    np.load(tmp_path / f"{CAR}_train_{which}.npz", allow_pickle=True)["arr_0"]
    assert proof.exists(), "the payload works where it is let"


def zipped(name, content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def npy(array):
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("content", [
    b"", b"text\n", zipped("arr_0.npy", npy(ARRAY))[:-30], zipped("arr_0.npy", npy(ARRAY))[:140],
    zipped("other.npy", npy(ARRAY)), zipped("arr_0.npy", npy(ARRAY)[:-1]), zipped("arr_0.npy", npy(ARRAY) + b"x"),
    zipped("arr_0.npy", npy(ARRAY)[:50]), zipped("arr_0.npy", b"\x93NUMPY\x09\x00"), zipped("arr_0.npy", b""),
    zipped("arr_0.npy", npy(np.asfortranarray(ARRAY)))])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="a.npz"):
        open_npz(str(tmp_path / "a.npz"), str(tmp_path / "cache"))
    assert os.listdir(tmp_path / "cache") == [], "nothing half unpacked stays"


@pytest.mark.parametrize("mask", [1, 8, 255])
@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_no_flipped_byte_goes_unnoticed_or_ends_in_another_error(tmp_path, compress, mask):
    # The array is larger than one read, so the header is used before the checksum is known.
    array = np.random.default_rng(0).integers(0, 256, (2, 9000), dtype=np.uint8)
    compress(tmp_path / "whole.npz", array)
    whole, wrong = (tmp_path / "whole.npz").read_bytes(), []
    for position in [*range(250), *range(250, len(whole) - 100, 1009), *range(len(whole) - 100, len(whole))]:
        path = tmp_path / f"{position}.npz"
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1:])
        try:
            if not np.array_equal(open_npz(str(path), str(tmp_path / "cache")), array):
                wrong.append((position, "other values"))
        except InputError:
            pass
        except Exception as error:
            wrong.append((position, repr(error)))
    assert not wrong


BYTES, GRIDS = make_arrays(2)


@pytest.mark.parametrize("split, images", [
    ("train", BYTES[:, :, :3]), ("train", BYTES[..., :32]), ("train", BYTES[0]),
    ("train", BYTES.astype(np.float32)), ("train", BYTES.astype(np.int8)), ("val", BYTES[:, :23]), ("test", BYTES[:, :1]), ("val", BYTES[:0]),
    ("val", BYTES[0, 0, 0, 0]), ("val", np.uint8(3)), ("train", BYTES[0, 0, 0, 0]), ("train", BYTES[:0])])
def test_images_of_another_shape_or_type_are_refused(tmp_path, split, images):
    write(tmp_path, split=split, images=images, voxels=GRIDS[:0] if not images.size else GRIDS)
    with pytest.raises(InputError, match=f"{CAR}_{split}_images.npz"):
        read(tmp_path, split=split)


@pytest.mark.parametrize("voxels", [GRIDS[:1], np.concatenate([GRIDS, GRIDS]), GRIDS[:, :31], GRIDS[0],
                                    GRIDS.astype(np.float32), GRIDS.astype(np.int64)])
def test_voxels_of_another_shape_or_type_are_refused(tmp_path, voxels):
    write(tmp_path, split="val", voxels=voxels)
    with pytest.raises(InputError, match=rf"{CAR}_val_voxels.npz must be bool or uint8 .* \(2, 32, 32, 32\)"):
        read(tmp_path, split="val")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=f"--data_dir={tmp_path / 'none'} is not a folder"):
        CVPR18(str(tmp_path / "none"), [CAR], "train", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="classes there: none"):
        read(tmp_path)
    write(tmp_path, CHAIR)
    with pytest.raises(InputError, match=f"no {CAR}_train_images.npz; classes there: {CHAIR}"):
        read(tmp_path, (CHAIR, CAR))
    os.remove(tmp_path / f"{CHAIR}_train_voxels.npz")
    with pytest.raises(InputError, match=f"{CHAIR}_train_voxels.npz"):
        read(tmp_path, (CHAIR,))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="--cache_dir=.*file cannot be made"):
        CVPR18(str(tmp_path), [CHAIR], "train", str(tmp_path / "file"))
