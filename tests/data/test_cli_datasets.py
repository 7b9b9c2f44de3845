"""Every mode on tiny NIPS17 and Pascal3D datasets, and check_data, through the command line."""
import json
import shutil

import numpy as np
import pytest
import torch
from command import CAR, TINY, call, checkpoint, differences, metrics
from matplotlib.figure import Figure

CHAIR = "03001627"
SHORT = ("--n_iters=4", "--ckpt_step=2", "--sample_step=4", "--log_step=1")
OWN = {"NIPS17": (), "Pascal3D": ("--img_size=64", "--no-symmetric")}


@pytest.fixture(scope="session")
def files(scratch):
    """Folders of both layouts: 4 chairs to train, 2 to validate, 2 to test."""
    made = {}
    for layout in ("NIPS17", "Pascal3D"):
        made[layout] = scratch / layout
        assert call("--mode=make_dataset", f"--layout={layout}", "--data_dir", made[layout], "--class_ids", CHAIR,
                    "--n_train=4", "--n_val=2", "--n_test=2") == 0
    return made


def command(layout, files, folder, template, *more):
    return ("--mode=train", f"--dataset={layout}", "--data_dir", files[layout], "--ckpt_dir", folder, "--obj_dir",
            template, *TINY, *SHORT, *OWN[layout], *more)


@pytest.fixture(scope="session")
def trained(files, scratch, template):
    runs = {}
    for layout in files:
        runs[layout] = scratch / f"run_{layout}"
        assert call(*command(layout, files, runs[layout], template)) == 0
    return runs


@pytest.mark.parametrize("layout", OWN)
def test_training_and_evaluation(trained, capsys, layout):
    rows = metrics(trained[layout])
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert all("confusion" in r or "discriminator" in r for r in rows)
    assert np.isfinite(rows[-1]["val_iou"])
    options = checkpoint(trained[layout])["options"]
    assert options["trainViews"] == (1 if layout == "NIPS17" else None) and options["class_ids"] == [CHAIR]
    capsys.readouterr()
    assert call("--mode=evaluation", "--ckpt_dir", trained[layout]) == 0
    told = capsys.readouterr().out
    split = {"NIPS17": "test", "Pascal3D": "val"}[layout]
    result = json.loads((trained[layout] / f"evaluation_{split}_last.json").read_text())
    assert 0 <= result["iou"][CHAIR] <= 1 and result["protocol"]["dataset"] == layout
    assert result["protocol"]["objects"] == {CHAIR: 2}
    if layout == "Pascal3D":  # one image per object: the reason of undefined figures is printed
        no_pairs = f"no agreement, no new view of {CHAIR}: each object has one view"
        assert result["view_agreement"][CHAIR] is None and no_pairs in result["protocol"]["undefined"]
        assert f"-: {no_pairs}\n" in told and "nan" not in told and told.count(" -") >= 2
    assert {"NIPS17": "0 and 2 swapped", "Pascal3D": "all three reversed"}[layout] in result["protocol"]["grid"]


@pytest.mark.parametrize("layout", OWN)
def test_resume_is_exact(files, trained, template, tmp_path, layout):
    """Including the augmentation, which depends only on the seed and the step."""
    folder = tmp_path / "run"
    assert call(*command(layout, files, folder, template, "--n_iters=2")) == 0
    assert call(*command(layout, files, folder, template, "--resume")) == 0
    whole, parts = checkpoint(trained[layout]), checkpoint(folder)
    for part in ("models", "optimizers", "rng"):
        assert differences(whole[part], parts[part]) == []


def test_resume_with_batch_norm_is_exact(files, scratch, template, tmp_path):
    """The checkpoint includes the running statistics of the ResNet."""
    run = ("--img_size=224", "--symmetric", "--latent_dim=32", "--batch_size=2", "--lambda_adv=0.1")
    for name, iterations in (("whole", [4]), ("parts", [2, 4])):
        for count in iterations:
            assert call(*command("Pascal3D", files, tmp_path / name, template, *run, f"--n_iters={count}",
                                 "--resume")) == 0
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert differences(whole["models"], parts["models"]) == []
    assert float(whole["models"]["E"]["bn1.num_batches_tracked"]) == 4
    assert "layer4.1.bn2.running_mean" in whole["models"]["E"]
    assert whole["models"]["G"]["bias_layer.weight"].shape[0] < 3 * 42  # symmetric: fewer numbers than coordinates


@pytest.mark.parametrize("layout", OWN)
def test_view_prior_learning_with_views_as_bins(files, template, tmp_path, layout):
    arguments = command(layout, files, tmp_path / "run", template, "--n_iters=2")
    assert call("--mode=trainCVPR19", *arguments[1:]) == 0
    planes = checkpoint(tmp_path / "run")["models"]["D"]["convBlocks.0.weight"].shape[1]
    assert planes == 73 if layout == "NIPS17" else 2 < planes < 20
    assert ["discriminator" in r for r in metrics(tmp_path / "run")] == [True, False]


@pytest.mark.parametrize("layout", OWN)
def test_view_prior_learning_refuses(refused, files, tmp_path, layout, template):
    arguments = ("--mode=trainCVPR19", *command(layout, files, tmp_path / "run", template)[1:])
    assert "--batch_size=1" in refused(*arguments, "--batch_size=1")
    if layout == "NIPS17":
        assert "--channels=25" in refused(*arguments, "--channels=25")


@pytest.mark.parametrize("layout", OWN)
def test_the_other_modes(trained, tmp_path, layout):
    here = ("--ckpt_dir", trained[layout], "--sample_dir", tmp_path)
    assert call("--mode=t_SNE", *here, "--perplexity=1") == 0
    split = {"NIPS17": "test", "Pascal3D": "train"}[layout]
    assert (tmp_path / f"t_SNE_{split}.png").exists()
    assert call("--mode=reconstruct_Pascal", *here, "--n_images=1") == 0
    mesh, = tmp_path.glob(f"{CHAIR}_*_out.obj")
    if layout == "Pascal3D":  # photographs with background; other pictures are loaded like those of the dataset
        picture = str(mesh).replace("_out.obj", ".png")
        assert call("--mode=interpolation", *here, "--load_im", picture, "--load_im1", picture, "--steps=2") == 0
        assert call("--mode=reconstruct", *here[:2], "--load_im", picture, "--sample_dir", tmp_path / "again") == 0
        assert len(list((tmp_path / "again").glob("*_out.*"))) == 4


def test_mmd_by_pose_bin_leaves_out_bins_of_one_object(trained, tmp_path, monkeypatch):
    """The ticks of the heat map are the numbers of the bins, not of the rows."""
    shown, savefig = [], Figure.savefig

    def seen(figure, *where, **more):
        shown.append([label.get_text() for label in figure.axes[0].get_xticklabels()])
        savefig(figure, *where, **more)
    monkeypatch.setattr(Figure, "savefig", seen)
    assert call("--mode=MMD", "--ckpt_dir", trained["NIPS17"], "--sample_dir", tmp_path) == 0
    result = json.loads((tmp_path / "MMD_test.json").read_text())["runs"][0]["classes"][CHAIR]
    assert shown[-1] == [str(p) for p in result["poses"]] != list("01234567")[:len(shown[-1])]
    assert len(result["poses"]) + len(result["poses_left_out"]) == 72 and result["poses_left_out"]


def test_compare(trained, tmp_path, capsys):
    for layout in OWN:
        run = trained[layout]
        assert call("--mode=evaluation", "--ckpt_dir", run) == 0
        assert call("--mode=compare", "--runs", run, "--sample_dir", tmp_path / layout) == 0
        assert (tmp_path / layout / "compare.png").exists()
        told = "-: no agreement, no new view of" in (tmp_path / layout / "table.md").read_text()
        assert told == (layout == "Pascal3D")


def test_what_was_left_out_is_in_the_json_of_results(files, tmp_path, template):
    """Of training, evaluation, MMD and reconstruct: a sentence for each broken object, and how many."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(files["NIPS17"], data, ignore=shutil.ignore_patterns(".cache"))
    (data / "splits.json").write_bytes(b"\xef\xbb\xbf" + (data / "splits.json").read_bytes())  # as editors write it
    broken = {"train": ("train_00002", data / "voxels" / "modelVoxels32" / CHAIR / "train_00002.mat"),
              **{split: (name, data / "renders" / CHAIR / name / "view.txt")
                 for split, name in (("val", "val_00000"), ("test", "test_00001"))}}
    for _, path in broken.values():
        path.unlink()

    def told(split):
        name, path = broken[split]
        return [f"{CHAIR}/{name}: there is no {path}"]
    assert call(*command("NIPS17", {"NIPS17": data}, run, template, "--skip_bad", "--n_iters=1")) == 0
    kept = json.loads((run / "options.json").read_text())
    assert kept["left_out"] == {split: told(split) for split in ("train", "val")} and kept["count_left_out"] == 2
    assert call("--mode=evaluation", "--ckpt_dir", run) == 0
    protocol = json.loads((run / "evaluation_test_last.json").read_text())["protocol"]
    assert protocol["left_out"] == told("test") and protocol["count_left_out"] == 1
    assert protocol["left_out_of_mean_shape"] == told("train")
    assert call("--mode=MMD", "--ckpt_dir", run, "--split=train", "--sample_dir", tmp_path / "mmd") == 0
    protocol = json.loads((tmp_path / "mmd" / "MMD_train.json").read_text())["protocol"]
    assert protocol["left_out"] == told("train") and protocol["objects"] == {CHAIR: 3}
    assert call("--mode=reconstruct", "--ckpt_dir", run, "--n_images=2", "--split=train", "--sample_dir",
                tmp_path / "made") == 0
    listed = json.loads((tmp_path / "made" / "reconstructions.json").read_text())
    assert listed["left_out_of_split"] == told("train") and (listed["count"], listed["count_left_out"]) == (2, 1)


# ---- options ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout, settings", [
    ("CVPR18", {"img_size": 64, "n_iters": 20000, "lambda_Gprior": 1, "lambda_adv": 1, "trainViews": None,
                "channels": 25}),
    ("NIPS17", {"img_size": 64, "n_iters": 20000, "lambda_Gprior": 1, "lambda_adv": 1, "trainViews": 1,
                "wAzimuth": 15, "wElevation": 20, "mask_from": "depth"}),
    ("Pascal3D", {"img_size": 224, "n_iters": 40000, "lambda_Gprior": .01, "lambda_adv": .01, "symmetric": True,
                  "decay_batch": 60000})])
def test_options_not_given_are_those_of_the_published_run(capsys, layout, settings):
    assert call("--mode=train", f"--dataset={layout}", "--dry_run") == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: said[name] for name in settings} == settings
    assert said["batch_size"] == 128 and said["lambda_smth"] == .001 and said["latent_dim"] == 512
    assert call("--mode=train", f"--dataset={layout}", "--dry_run", "--n_iters=7", "--img_size=64") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n_iters"] == 7 and said["symmetric"] in (None, False)


def test_a_split_that_a_dataset_does_not_have(trained, refused, tmp_path):
    for mode in ("evaluation", "reconstruct"):
        line = refused(f"--mode={mode}", "--ckpt_dir", trained["Pascal3D"], "--split=test", "--sample_dir",
                       tmp_path / "out")
        assert "--split=test" in line and "train, val" in line


def test_refusals(refused, files, tmp_path):
    def train(layout, *more):
        return refused("--mode=train", f"--dataset={layout}", "--data_dir", files[layout], "--ckpt_dir",
                       tmp_path / "run", *TINY, *more)
    assert "--img_size=224" in train("NIPS17", "--img_size=224")
    assert "64 or 128" in train("NIPS17", "--img_size=100")
    assert "--latent_dim=16" in train("Pascal3D") and "32" in train("Pascal3D")  # 8 x enc_width
    assert "--trainViews=21" in train("NIPS17", "--trainViews=21")
    assert CAR in train("NIPS17", "--class_ids", CAR) and "car_train.npz" in train("Pascal3D", "--class_ids", CAR,
                                                                                   "--img_size=64")
    assert "--data_dir" in refused("--mode=train", "--dataset=NIPS17", "--ckpt_dir", tmp_path / "run")
    for layout in files:
        assert "is not a folder" in refused("--mode=train", f"--dataset={layout}", "--data_dir", tmp_path / "none",
                                            "--ckpt_dir", tmp_path / "run", "--batch_size=4")
    weights = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, weights)
    line = train("Pascal3D", "--latent_dim=32", "--resnet_weights", weights)
    assert str(weights) in line and "bn1.bias is missing" in line
    assert "--resnet_weights" in train("NIPS17", "--resnet_weights", weights)
    weights.unlink()


def test_resnet_weights_are_where_training_starts(files, tmp_path):
    from models import ResNetEncoder
    torch.manual_seed(5)
    encoder = ResNetEncoder(4)
    state = {k: v for k, v in encoder.state_dict().items() if "num_batches" not in k}
    published = {**state, "fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}
    torch.save(published, tmp_path / "resnet.pth")
    assert call("--mode=train", "--dataset=Pascal3D", "--data_dir", files["Pascal3D"], "--ckpt_dir", tmp_path / "run",
                *TINY, "--latent_dim=32", "--n_iters=1", "--lr=1e-9", "--resnet_weights", tmp_path / "resnet.pth",
                "--batch_size=2") == 0
    got, name = checkpoint(tmp_path / "run")["models"]["E"], "layer3.0.downsample.0.weight"
    torch.testing.assert_close(got[name], state[name], atol=1e-6, rtol=0)
    (tmp_path / "resnet.pth").unlink()


# ---- check_data ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", OWN)
def test_check_data_of_sound_files(files, tmp_path, capsys, layout):
    assert call("--mode=check_data", f"--dataset={layout}", "--data_dir", files[layout], "--sample_dir",
                tmp_path) == 0
    said = capsys.readouterr().out
    assert "everything found is in order" in said and "https://github.com/" in said and "overlap by 0." in said
    # Few photographs: none looks from the mirrored side of another.
    assert ("the plane z = 0, as the dataset says; no image looks from the mirrored side of another" if layout == "Pascal3D"
            else "mirror plane: ") in said and "is 0.000" not in said
    assert (tmp_path / f"check_{layout}.png").exists()


def swapped(folder, layout):
    """A copy with two axes of the voxels swapped."""
    if layout == "NIPS17":
        import scipy.io
        for path in (folder / "voxels").rglob("*.mat"):
            scipy.io.savemat(path, {"Volume": scipy.io.loadmat(path)["Volume"].swapaxes(0, 1)})
    else:
        for path in set(folder.glob("*.npz")) - set(folder.glob("*_points.npz")):
            with np.load(path, allow_pickle=True) as file:
                arrays = dict(file)
            if "voxels" in arrays:  # others hold surface points or lights
                np.savez_compressed(path, **{**arrays, "voxels": arrays["voxels"].swapaxes(2, 3)})


@pytest.mark.parametrize("layout", OWN)
def test_check_data_shows_a_wrong_axis(files, tmp_path, capsys, layout):
    shutil.copytree(files[layout], tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    swapped(tmp_path / "data", layout)
    assert call("--mode=check_data", f"--dataset={layout}", "--data_dir", tmp_path / "data", "--sample_dir",
                tmp_path, "--split=val") == 1
    said = capsys.readouterr().out
    assert "an axis of the voxels or of the camera is not as published" in said and "2 things are wrong:" in said
    assert "an axis of the points differs from the voxels'" in said


def test_check_data_measures_every_split(files, tmp_path, capsys):
    """It finds an error if only the voxels of the last split have other axes."""
    shutil.copytree(files["Pascal3D"], tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    (tmp_path / "val").mkdir()
    for path in (tmp_path / "data").glob("*_val*.npz"):
        shutil.move(path, tmp_path / "val" / path.name)
    swapped(tmp_path / "val", "Pascal3D")
    for path in (tmp_path / "val").iterdir():
        shutil.move(path, tmp_path / "data" / path.name)
    assert call("--mode=check_data", "--dataset=Pascal3D", "--data_dir", tmp_path / "data", "--sample_dir",
                tmp_path) == 1
    said = capsys.readouterr().out
    assert ", val: voxels overlap better" in said and ", train: voxels overlap better" not in said


def test_check_data_names_what_is_missing_or_broken(files, tmp_path, capsys, refused):
    data = tmp_path / "data"
    shutil.copytree(files["NIPS17"], data, ignore=shutil.ignore_patterns(".cache"))
    (data / "renders" / CHAIR / "train_00002" / "view.txt").unlink()
    (data / "renders" / CHAIR / "val_00001" / "depth_3.png").write_bytes(b"no")
    assert call("--mode=check_data", "--dataset=NIPS17", "--data_dir", data, "--sample_dir", tmp_path) == 1
    said = capsys.readouterr().out
    assert "train_00002/view.txt" in said and "val_00001/depth_3.png" in said and "2 things are wrong" in said
    assert "is not a folder" in refused("--mode=check_data", "--dataset=NIPS17", "--data_dir", tmp_path / "none")
    assert "holds no class" in refused("--mode=check_data", "--dataset=Pascal3D", "--data_dir", data)


def test_check_data_looks_at_all_views(files, tmp_path, capsys):
    """For NIPS17 too, where training uses only the first ones."""
    data = tmp_path / "data"
    shutil.copytree(files["NIPS17"], data, ignore=shutil.ignore_patterns(".cache"))
    (data / "renders" / CHAIR / "train_00001" / "depth_3.png").unlink()
    (data / "renders" / CHAIR / "train_00002" / "render_5.png").unlink()
    command = ("--mode=check_data", "--dataset=NIPS17", "--data_dir", data, "--sample_dir", tmp_path)
    assert call(*command) == 1
    said = capsys.readouterr().out
    assert "train_00001/depth_3.png" in said and "train_00002/render_5.png" in said and "2 things are wrong" in said
    assert call(*command, "--trainViews=3") == 0
    assert "everything found is in order" in capsys.readouterr().out
    assert call(*command, "--trainViews=4") == 1


def test_check_data_of_a_set_made_with_few_views(files, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(files["NIPS17"], data, ignore=shutil.ignore_patterns(".cache"))
    for path in data.glob(f"renders/{CHAIR}/train_*/*_*.png"):
        if int(path.stem.split("_")[1]) >= 2:
            path.unlink()
    command = ("--mode=check_data", "--dataset=NIPS17", "--data_dir", data, "--sample_dir", tmp_path)
    assert call(*command) == 0
    said = capsys.readouterr().out
    assert f"note: training objects of {CHAIR} have 2 of 20 views" in said and "everything found is in order" in said
    next(data.glob(f"renders/{CHAIR}/train_00003/depth_1.png")).unlink()
    assert call(*command) == 1 and "train_00003/depth_1.png" in capsys.readouterr().out
