"""Errors of evaluation, reconstruct and compare: exit code 2, one line that names the problem, no files left
behind, and no code from a file is run."""
import json
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
import torch
from command import CAR, call, process
from PIL import Image


class Runs:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


# ---- run folders -----------------------------------------------------------------------------------

@pytest.fixture
def run(ae, tmp_path):
    """A copy of a run that a test may damage; it has only its last checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("options.json", "metrics.jsonl", "last.pt"):
        shutil.copy(ae / name, folder)
    return folder


def test_folders_that_are_no_run(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("gone", "empty", "file"):
        message = refused("--mode=evaluation", "--ckpt_dir", tmp_path / name)
        assert str(tmp_path / name) in message and "last.pt" in message
    assert "best.pt" in refused("--mode=evaluation", "--ckpt_dir", tmp_path / "empty", "--eval_flag=best")


def test_parent_folders(refused, tmp_path):
    (tmp_path / f"all/ckpt3D_{CAR}").mkdir(parents=True)
    assert f"ckpt3D_{CAR}" in refused("--mode=evaluation", "--ckpt_dir", tmp_path / "all")
    message = refused("--mode=evaluation", "--ckpt_dir", tmp_path / "all", "--class_ids", "03001627")
    assert "ckpt3D_03001627" in message and f"ckpt3D_{CAR}" in message


@pytest.mark.parametrize("mode", ["evaluation", "MMD", "t_SNE"])
def test_layout_of_another_dataset_than_the_run_s(mode, refused, ae, tmp_path):
    message = refused(f"--mode={mode}", "--ckpt_dir", ae, "--dataset=NIPS17", "--data_dir", tmp_path)
    assert "--dataset=NIPS17" in message and f"{ae} was trained on CVPR18" in message


def test_layout_of_another_dataset_than_that_of_weights(refused, ae, tmp_path):
    file, picture = ae / "last.pt", tmp_path / "a.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 255)).save(picture)
    message = refused("--mode=reconstruct", f"--load_E={file}", f"--load_G={file}", "--dataset=NIPS17", "--load_im",
                      picture, "--sample_dir", tmp_path / "out")
    assert "--dataset=NIPS17" in message and f"--load_E={file} was trained on CVPR18" in message


def test_the_default_layout_is_refused_if_it_is_given_for_another_run(refused, run, tmp_path):
    """CVPR18 is the default of --dataset for training; given explicitly, it is refused like others."""
    state = torch.load(run / "last.pt", weights_only=True)
    state["options"]["dataset"] = "NIPS17"
    torch.save(state, run / "last.pt")
    message = refused("--mode=evaluation", "--ckpt_dir", run, "--dataset=CVPR18", "--data_dir", tmp_path)
    assert "--dataset=CVPR18" in message and f"{run} was trained on NIPS17" in message
    for said in ((), ("--dataset=NIPS17",)):
        assert "splits.json" in refused("--mode=evaluation", "--ckpt_dir", run, "--data_dir", tmp_path, *said)


def test_evaluation_of_data_that_is_not_there(refused, tmp_path, ae):
    message = refused("--mode=evaluation", "--ckpt_dir", ae, "--data_dir", tmp_path / "gone")
    assert f"--data_dir={tmp_path / 'gone'}" in message
    assert "03001627_test_images.npz" in refused("--mode=evaluation", "--ckpt_dir", ae, "--class_ids",
                                                 "03001627")


@pytest.mark.parametrize("mode", ["evaluation", "train"])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.9999])
def test_checkpoints_cut_short(keep, mode, run, refused, data):
    path = run / "last.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:int(keep * len(whole)) if keep < 1 else keep])
    more = ("--resume", "--data_dir", data, "--device=cpu") if mode == "train" else ()
    assert str(path) in refused(f"--mode={mode}", "--ckpt_dir", run, *more)


def test_checkpoint_with_a_flipped_bit(run, refused):
    path = run / "last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert str(path) in refused("--mode=evaluation", "--ckpt_dir", run)


@pytest.mark.parametrize("packed", ["zip", "pickle", "legacy"])
def test_checkpoints_run_nothing(packed, run, refused, tmp_path):
    harm = {"step": 1, "options": {}, "models": Runs(tmp_path / "ran")}
    if packed == "zip":  # as torch.save lays it out
        with zipfile.ZipFile(run / "last.pt") as archive:
            root = archive.namelist()[0].split("/")[0]
        with zipfile.ZipFile(run / "last.pt", "w") as archive:
            archive.writestr(f"{root}/data.pkl", pickle.dumps(harm, 2))
            archive.writestr(f"{root}/version", "3\n")
    elif packed == "pickle":
        (run / "last.pt").write_bytes(pickle.dumps(harm))
    else:
        torch.save(harm, run / "last.pt", _use_new_zipfile_serialization=False)
    assert str(run / "last.pt") in refused("--mode=evaluation", "--ckpt_dir", run)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [
    [1, 2], {"step": 1}, {"step": 1, "options": {}, "models": {}}, {"step": 1, "options": 3, "models": {}},
    {"step": 1, "options": {"dataset": "MNIST"}, "models": {}}], ids=str)
def test_checkpoints_of_something_else(content, run, refused):
    torch.save(content, run / "last.pt")
    assert str(run) in refused("--mode=evaluation", "--ckpt_dir", run)


def test_checkpoint_that_does_not_fit_its_template(run, refused, tmp_path):
    state = torch.load(run / "last.pt", weights_only=True)
    state["options"]["obj_dir"] = str(tmp_path / "gone.obj")
    torch.save(state, run / "last.pt")
    assert "gone.obj" in refused("--mode=evaluation", "--ckpt_dir", run)
    state["options"]["obj_dir"] = None
    torch.save(state, run / "last.pt")
    assert str(run) in refused("--mode=evaluation", "--ckpt_dir", run)


# ---- images ----------------------------------------------------------------------------------------

@pytest.fixture
def no_image(refused, ae, tmp_path):
    """A function that reconstructs an image, with further options, and returns the error message."""
    def check(path, *more):
        return refused("--mode=reconstruct", "--ckpt_dir", ae, "--load_im", path, "--sample_dir",
                       tmp_path / "out", "--device=cpu", *more)
    return check


def disc(size=(40, 30), mode="RGB", ground=0, shown=255):
    """A disc in the middle of a picture."""
    y, x = np.mgrid[:size[1], :size[0]]
    inside = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 3) ** 2
    return Image.fromarray(np.where(inside, shown, ground).astype(np.uint8), "L").convert(mode)


def test_no_image_at_all(no_image, refused, ae, tmp_path):
    assert "gone.png" in no_image(tmp_path / "gone.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("none")
    assert str(tmp_path / "folder") in no_image(tmp_path / "folder")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50), "cut", "broken"])
def test_images_that_cannot_be_read(content, no_image, tmp_path):
    path = tmp_path / "image.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(path)
        whole = bytearray(path.read_bytes())
        if content == "broken":
            whole[len(whole) // 2] ^= 0xff
        content = bytes(whole) if content == "broken" else bytes(whole[:len(whole) // 2])
    path.write_bytes(content)
    assert str(path) in no_image(path)


def test_images_without_an_object(no_image, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(path)
    assert str(path) in no_image(path)
    Image.new("RGB", (20, 20), (200, 0, 0)).save(path)  # all background
    assert str(path) in no_image(path)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    message = no_image(path)
    assert str(path) in message and "--mask" in message


def test_masks(no_image, tmp_path):
    disc().save(tmp_path / "image.png")
    disc((30, 40), "L").save(tmp_path / "mask.png")
    message = no_image(tmp_path / "image.png", "--mask", tmp_path / "mask.png")
    assert str(tmp_path / "mask.png") in message and "30x40" in message and "40x30" in message
    assert "gone.png" in no_image(tmp_path / "image.png", "--mask", tmp_path / "gone.png")
    Image.new("L", (40, 30)).save(tmp_path / "mask.png")
    assert "mask" in no_image(tmp_path / "image.png", "--mask", tmp_path / "mask.png")
    message = no_image(tmp_path, "--mask", tmp_path / "mask.png")
    assert "--mask" in message and "2" in message


def test_a_mask_for_images_of_a_split(ae, refused, tmp_path):
    assert "--mask=m.png needs --load_im" in refused(
        "--mode=reconstruct", "--ckpt_dir", ae, "--split=val", "--mask=m.png", "--sample_dir", tmp_path / "out")


@pytest.mark.parametrize("side", [9500, 30000])
def test_images_too_large_to_be_one(side, no_image, tmp_path):
    """A decompression bomb: few bytes, very many pixels. For the smaller one Pillow only warns."""
    path = tmp_path / "image.png"
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert str(path) in no_image(path)


def test_one_bad_image_in_a_folder_is_named_before_anything_is_written(no_image, tmp_path):
    (tmp_path / "images").mkdir()
    disc().save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.jpg").write_bytes(b"")
    assert "b.jpg" in no_image(tmp_path / "images")


def test_sample_dir_that_a_file_is_in_the_way_of(refused, ae, tmp_path):
    disc().save(tmp_path / "image.png")
    assert f"--sample_dir={tmp_path / 'image.png'}" in refused(
        "--mode=reconstruct", "--ckpt_dir", ae, "--load_im", tmp_path / "image.png", "--sample_dir",
        tmp_path / "image.png")


def test_no_traceback_in_a_process_of_its_own(ae, tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    done = process("--mode=reconstruct", "--ckpt_dir", ae, "--load_im", tmp_path / "image.png",
                   "--sample_dir", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {tmp_path}/image.png"), done.stderr


# ---- compare ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def evaluated(ae):
    assert call("--mode=evaluation", "--ckpt_dir", ae, "--device=cpu") == 0
    return ae


def test_runs_that_were_not_evaluated(refused, run, evaluated, tmp_path):
    command = ("--mode=compare", "--sample_dir", tmp_path / "out", "--runs", evaluated, run)
    message = refused(*command)
    assert f"{run}/evaluation_test_last.json" in message and "--mode=evaluation" in message
    assert "evaluation_val_best.json" in refused(*command, "--split=val", "--eval_flag=best")


@pytest.mark.parametrize("key, other", [("voxel_rule", "flood fill"), ("objects", {CAR: 40}),
                                        ("split", "val"), ("dataset", "NIPS17"), ("mmd_codes", 12288)])
def test_runs_evaluated_in_different_ways(key, other, refused, run, evaluated, tmp_path):
    result = json.loads((evaluated / "evaluation_test_last.json").read_text())
    result["protocol"][key] = other
    (run / "evaluation_test_last.json").write_text(json.dumps(result))
    message = refused("--mode=compare", "--sample_dir", tmp_path / "out", "--runs", evaluated, run)
    assert key in message and str(run) in message


def test_figures_of_another_step_than_the_picture_would_be(refused, run, evaluated, tmp_path):
    result = json.loads((evaluated / "evaluation_test_last.json").read_text())
    result["protocol"]["step"] -= 3
    (run / "evaluation_test_last.json").write_text(json.dumps(result))
    message = refused("--mode=compare", "--sample_dir", tmp_path / "out", "--runs", evaluated, run)
    assert f"the figures of {run} are of step 3, its last checkpoint is of step 6" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"protocol": {}}', '{"protocol": 3}'])
def test_evaluations_that_cannot_be_read(text, refused, run, evaluated, tmp_path):
    (run / "evaluation_test_last.json").write_text(text)
    message = refused("--mode=compare", "--sample_dir", tmp_path / "out", "--runs", run, evaluated)
    assert str(run) in message


def test_sample_dir_of_compare(refused, evaluated, tmp_path):
    (tmp_path / "file").write_text("")
    assert f"--sample_dir={tmp_path / 'file'}" in refused(
        "--mode=compare", "--sample_dir", tmp_path / "file", "--runs", evaluated, evaluated)
