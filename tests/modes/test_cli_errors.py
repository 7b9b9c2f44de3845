"""Errors of the command line: exit code 2, one line that names the problem, and no files left behind."""
import json
import re
import shutil

import numpy as np
import pytest
from command import CAR, PLANE, SHORT, TINY, call, process, script
from solids import box



class Runs:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def training(folder, data, *more):
    return ("--mode=train", "--data_dir", data, "--ckpt_dir", folder / "run", *TINY, *SHORT, *more)


# ---- the options themselves ------------------------------------------------------------------------

@pytest.mark.parametrize("mode, more, named", [
    ("train", ["--data_dir=/", "--train_views=1"], "leave it out (training takes --trainViews), or make another"),
    ("train", ["--data_dir=d", "--n_train=3"], "--n_train describes data that do not exist yet"),
    ("train", ["--mesh_dir=d"], "--mesh_dir is an option of --mode=make_dataset, not of train"),
    ("train", ["--mask_from=alpha"], "--mask_from is an option of --dataset=NIPS17, not of CVPR18"),
    ("train", ["--dataset=NIPS17", "--published_flip"], "--dataset=Pascal3D, not of NIPS17"),
    ("trainCVPR19", ["--confusion=log2"], "--confusion belongs to --mode=train"),
    ("train", ["--mmd_batches=2"], "--mmd_batches is an option of --mode=evaluation and MMD, not of train"),
    ("evaluation", ["--perplexity", "3"], "--mode=t_SNE, not of evaluation"),
    ("reconstruct", ["--mask1=a.png"], "--mode=interpolation, not of reconstruct")])
def test_options_that_would_not_be_read(mode, more, named, tmp_path, capsys):
    assert call(f"--mode={mode}", "--ckpt_dir", tmp_path / "run", *more) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_an_axis_may_follow_its_option(capsys):
    for arguments in (["--up", "-z"], ["--up=-z"]):
        assert call("--mode=make_dataset", "--mesh_dir=meshes", "--dry_run", *arguments) == 0
        assert json.loads(capsys.readouterr().out)["up"] == "-z"


@pytest.mark.parametrize("option, named", [
    ("--mode=dance", "--mode"), ("--n_iters=0", "--n_iters"), ("--n_iters=1.5", "--n_iters"),
    ("--batch_size=-1", "--batch_size"), ("--lambda_smth=-0.1", "--lambda_smth"),
    ("--lambda_Gprior=nan", "--lambda_Gprior"), ("--lambda_adv=-1", "--lambda_adv"), ("--lr=inf", "--lr"),
    ("--lr=0", "--lr"), ("--lr=fast", "--lr"), ("--dataset=MNIST", "--dataset"), ("--nonsense=1", "--nonsense"),
    ("--eval_flag=worst", "--eval_flag"), ("--up=w", "--up"), ("--lambda=1", "--lambda")])
def test_values_that_cannot_be(option, named, refused, tmp_path):
    arguments = training(tmp_path, tmp_path / "data")
    assert named in refused(*arguments, option, usage=True)


def test_the_mode_must_be_said(refused):
    assert "--mode" in refused("--n_iters=5", usage=True)


@pytest.mark.parametrize("mode, needed", [("train", "--ckpt_dir"), ("evaluation", "--ckpt_dir"),
                                          ("reconstruct", "--ckpt_dir"), ("compare", "--runs")])
def test_what_a_mode_needs(mode, needed, refused):
    message = refused(f"--mode={mode}")
    assert needed in message and f"--mode={mode}" in message


def test_help_names_every_option_and_default(capsys):
    assert call("--help") == 0
    text = " ".join(capsys.readouterr().out.split()).split("options: ", 1)[1]
    for action in script().parser()._actions:
        assert all(name in text for name in action.option_strings) and action.help, action.dest
        if action.default not in (None, False, "==SUPPRESS=="):
            described = re.split(rf"{action.option_strings[-1]} ", text, maxsplit=1)[1].split(" --")[0]
            assert f"(default: {action.default})" in described, action.dest


def test_help_never_says_that_a_default_is_none(capsys):
    """The help describes in words what an omitted option means, or says nothing."""
    assert call("--help") == 0
    assert "(default: None)" not in " ".join(capsys.readouterr().out.split())


def test_dry_run_prints_json_and_writes_nothing(tmp_path, capsys):
    assert call(*training(tmp_path, tmp_path / "data", "--dry_run", "--lambda_adv=0.5")) == 0
    options = json.loads(capsys.readouterr().out)
    assert options["lambda_adv"] == 0.5 and options["n_iters"] == 6 and options["mode"] == "train"
    assert list(tmp_path.iterdir()) == []


def test_devices(refused, tmp_path, data):
    assert "--device=foo" in refused(*training(tmp_path, data, "--device=foo"))
    assert "--device=meta" in refused(*training(tmp_path, data, "--device=meta"))
    assert "cuda:99" in refused(*training(tmp_path, data, "--device=cuda:99"))
    assert "cuda:99" in refused(*training(tmp_path, data, "--device_id=99"))


def test_cuda_that_is_not_there(tmp_path, data):
    """There is no silent fallback to the CPU. A separate process sees no GPU even if there is one."""
    done = process(*training(tmp_path, data, "--device=cuda"))
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --device=cuda"), done.stderr


def test_settings_that_cannot_train(refused, tmp_path, data):
    message = refused(*training(tmp_path, data, "--G_every=1", "--lambda_adv=1"))
    assert "--G_every=1" in message and "--lambda_adv=1" in message and "never learn" in message
    assert "--img_size=128" in refused(*training(tmp_path, data, "--img_size=128"))


# ---- training data ---------------------------------------------------------------------------------

def test_data_dir_that_is_not_there(refused, tmp_path):
    for more in ((), ("--class_ids", CAR)):
        assert str(tmp_path / "gone") in refused(*training(tmp_path, tmp_path / "gone", *more))


@pytest.mark.parametrize("dataset, layout", [("CVPR18", ""), ("NIPS17", " --layout=NIPS17")])
def test_data_that_is_not_there_comes_with_the_command_that_makes_it(refused, tmp_path, dataset, layout):
    gone = tmp_path / "gone"
    line = refused("--mode=train", f"--dataset={dataset}", "--data_dir", gone, "--ckpt_dir", tmp_path / "run")
    assert line.endswith(f"to make a small one: --mode=make_dataset{layout} --data_dir={gone}")
    for mode in ("train", "trainCVPR19"):
        line = refused(f"--mode={mode}", f"--dataset={dataset}", "--data_dir", gone, "--ckpt_dir", tmp_path / "run",
                       "--n_train=2", "--train_views=1", usage=True)
        assert line.endswith(f"make them first: --mode=make_dataset{layout} --data_dir={gone} --n_train=2 --train_views=1")


def test_data_that_is_there_is_not_made(refused, tmp_path, data):
    """These options would be ignored silently. A resumed run may have been started with them."""
    for option in ("--n_train=4", "--n_val=1", "--n_test=1", "--palette=own", "--train_views=3"):
        line = refused(*training(tmp_path, data, option), usage=True)
        assert line.endswith(f"or make another dataset: --mode=make_dataset --data_dir=OTHER {option}")
    assert call(*training(tmp_path, data, "--n_train=4", "--resume", "--dry_run")) == 0


def test_embedded_data_of_other_settings_come_with_their_command(refused, own_data, tmp_path, monkeypatch):
    monkeypatch.setattr("synthetic.FOLDER", str(own_data))
    line = refused("--mode=train", "--class_ids", CAR, "--ckpt_dir", tmp_path / "run", "--n_train=20")
    assert "n_train=4, now n_train=20; make another, --mode=make_dataset --data_dir=OTHER --n_train=20, and" in line


def test_data_dir_without_the_class(refused, tmp_path, data):
    message = refused(*training(tmp_path, data, "--class_ids", CAR, "03001627"))
    assert "03001627_train_images.npz" in message and CAR in message.split("classes there")[1]


def test_a_class_named_twice_counts_once_or_is_refused(tmp_path, data, capsys):
    code = call(*training(tmp_path, data, "--class_ids", CAR, CAR, "--n_iters=1", "--lambda_adv=0"))
    said = capsys.readouterr()
    assert "96 images of 4 objects" in said.out if code == 0 else code == 2 and CAR in said.err


def test_classes_that_the_embedded_data_lacks(refused, tmp_path):
    message = refused("--mode=make_dataset", "--data_dir", tmp_path / "made", "--class_ids", "01234567")
    assert "01234567" in message and "02958343 car" in message


@pytest.fixture
def own_data(data, tmp_path):
    """A copy of the dataset that a test may damage."""
    return shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


@pytest.mark.parametrize("keep", [0, 30, 0.5, 0.99])
@pytest.mark.parametrize("stem", ["train_images", "val_voxels"])
def test_files_cut_short(stem, keep, own_data, refused, tmp_path):
    path = own_data / f"{CAR}_{stem}.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:int(keep * len(whole)) if keep < 1 else keep])
    assert str(path) in refused(*training(tmp_path, own_data))


def test_file_with_a_flipped_byte(own_data, refused, tmp_path):
    path = own_data / f"{CAR}_train_images.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert str(path) in refused(*training(tmp_path, own_data))


@pytest.mark.parametrize("stem, array", [
    ("train_images", np.zeros((4, 24, 64, 64, 4), np.uint8)), ("train_images", np.zeros((4, 24, 4, 64, 64))),
    ("train_images", np.zeros(7, np.uint8)), ("train_images", np.zeros((), np.uint8)),
    ("val_images", np.zeros((2, 5, 4, 64, 64), np.uint8)),
    ("train_voxels", np.zeros((4, 32, 32), bool)), ("train_voxels", np.zeros((3, 32, 32, 32), bool)),
    ("train_voxels", np.zeros((4, 32, 32, 32), np.float32)), ("train_images", np.array(["a", "b"]))],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}")
def test_arrays_of_another_shape_or_kind(stem, array, own_data, refused, tmp_path):
    path = own_data / f"{CAR}_{stem}.npz"
    np.savez(path, array)
    message = refused(*training(tmp_path, own_data))
    assert str(path) in message and "must" in message and message.endswith(f"{array.shape}")


def test_a_split_without_objects(own_data, refused, tmp_path):
    np.savez(own_data / f"{CAR}_val_images.npz", np.zeros((0, 24, 4, 64, 64), np.uint8))
    np.savez(own_data / f"{CAR}_val_voxels.npz", np.zeros((0, 32, 32, 32), bool))
    assert f"{own_data}/{CAR}_val_images.npz has no objects" in refused(*training(tmp_path, own_data))


def test_arrays_of_objects_are_refused_unread(own_data, refused, tmp_path):
    np.savez(own_data / f"{CAR}_train_images.npz", np.array([Runs(str(tmp_path / "ran"))], object))
    assert "Python objects" in refused(*training(tmp_path, own_data))
    assert not (tmp_path / "ran").exists()


def test_train_views(refused, tmp_path, data):
    assert "--trainViews=25" in refused(*training(tmp_path, data, "--trainViews=25"))


@pytest.mark.parametrize("option", ["--ckpt_dir", "--sample_dir"])
def test_folders_that_a_file_is_in_the_way_of(option, refused, tmp_path, data):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        message = refused(*training(tmp_path, data, option, tmp_path / place))
        assert f"{option}={tmp_path / place}" in message
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("text", [None, "", SQUARE, SQUARE + "f 1 2 9\n", "v 0 0 nan\nf 1 1 1\n", b"\xff\xfe\0"])
def test_template_without_faces_or_worse(text, refused, tmp_path, data):
    path = tmp_path / "template.obj"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert str(path) in refused(*training(tmp_path, data, "--obj_dir", path))


# ---- make_dataset ----------------------------------------------------------------------------------

def test_data_made_with_other_settings(refused, own_data):
    message = refused("--mode=make_dataset", "--data_dir", own_data, "--class_ids", CAR, "--n_train=5",
                      "--n_val=2", "--n_test=2")
    assert "n_train=4" in message and "n_train=5" in message and str(own_data) in message


def test_data_of_somebody_else_is_left_alone(refused, own_data):
    (own_data / "dataset.json").unlink()
    assert str(own_data) in refused("--mode=make_dataset", "--data_dir", own_data, "--class_ids", PLANE)


def mesh_text(corner=0):
    vertices, faces = box((corner, 0, 0), (1, 2, 3))
    return "".join("v {} {} {}\n".format(*v) for v in vertices.tolist()) \
        + "".join("f {} {} {}\n".format(*(f + 1)) for f in faces)


@pytest.fixture
def meshes(tmp_path):
    folder = tmp_path / "meshes" / "box"
    folder.mkdir(parents=True)
    for i in range(4):
        (folder / f"{i}.obj").write_text(mesh_text(i / 10))
    return folder


@pytest.mark.parametrize("text, what", [
    (mesh_text("nan"), "finite"), (SQUARE, "faces"), ("", ""), ("f 1 2 3\n", ""),
    ("v 1 1 1\n" * 3 + "f 1 2 3\n", "single point")], ids=["nan", "no faces", "empty", "no vertices", "a point"])
def test_meshes_that_are_none(text, what, meshes, tmp_path, capsys):
    """The error names the mesh. When the mesh is repaired, the same command makes the dataset."""
    (meshes / "2.obj").write_text(text)
    command = ("--mode=make_dataset", "--data_dir", tmp_path / "made", "--mesh_dir", meshes.parent)
    assert call(*command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {meshes}/2.obj") and what in lines[0], lines
    assert not list((tmp_path / "made").rglob("*.part"))
    (meshes / "2.obj").write_text(mesh_text())
    assert call(*command) == 0, capsys.readouterr().err


def test_mesh_folders(meshes, refused, tmp_path):
    command = ("--mode=make_dataset", "--data_dir", tmp_path / "made", "--mesh_dir")
    assert "--mesh_dir" in refused(*command, tmp_path / "gone")
    assert str(meshes) in refused(*command, meshes)  # no class folders in it
    (meshes / "3.obj").unlink(), (meshes / "2.obj").unlink()
    assert "at least 3" in refused(*command, meshes.parent)
