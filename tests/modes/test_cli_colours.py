"""Runs in colours, by the real command line: what they leave, in which formats, resumed, measured, refused."""
import json

import neural_renderer as nr
import numpy as np
import pytest
import torch
from command import CAR, SHORT, TINY, call, checkpoint, differences, metrics
from engine import dashboard
from engine.visdom_server import VisdomServer
from inference import load_run
from metrics import colours
from PIL import Image
from pictures import people_mesh, people_textures, write_glb, write_obj

CPU = ("--device=cpu", "--threads=1")
CUBES = ("--texture=cubes", "--texture_size=3", "--texture_mirror")


def train(folder, data, template, *more):
    return call("--mode=train", "--data_dir", data, "--ckpt_dir", folder, "--obj_dir", template, "--lambda_adv=0", *TINY,
                *SHORT, *more)


@pytest.fixture(scope="session")
def coloured(scratch, data, template):
    """Run folder of 6 steps with mirrored cubes of 3^3 texels on the small template; evaluated."""
    folder = scratch / "coloured"
    assert train(folder, data, template, *CUBES) == 0
    assert call("--mode=evaluation", "--ckpt_dir", folder, *CPU) == 0
    return folder


@pytest.fixture(scope="session")
def clay(scratch, data, template):
    """The same without colours; evaluated."""
    folder = scratch / "clay"
    assert train(folder, data, template) == 0
    assert call("--mode=evaluation", "--ckpt_dir", folder, *CPU) == 0
    return folder


@pytest.fixture(scope="session")
def images(scratch, data):
    """Two pictures of test cars, in a folder."""
    folder = scratch / "pictures_of_cars"
    folder.mkdir()
    rgba = np.load(data / f"{CAR}_test_images.npz")["arr_0"]
    for name, picture in (("a", rgba[0, 3]), ("b", rgba[1, 9])):
        Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{name}.png")
    return folder


# ---- what a run leaves ------------------------------------------------------------------------------

def test_records_checkpoints_and_samples(coloured):
    rows = metrics(coloured)
    assert all({"colour", "variation"} <= set(row) for row in rows)
    state = checkpoint(coloured)
    assert set(state["models"]) == set(state["optimizers"]) == {"E", "G", "T"}
    assert torch.allclose(state["models"]["T"]["light"], torch.tensor([.5, .5, .35, .85, -.4]))
    left = {path.name for path in (coloured / "samples").iterdir()}
    assert left == {f"0000{step}{ending}" for step in (3, 6)
                    for ending in (".png", ".obj", "_colours.png", "_colours.mtl")}
    nr.load_obj(coloured / "samples" / "00006.obj", load_texture=True)
    assert rows[-1]["mesh"] == "00006.obj" and rows[-1]["picture"] == "00006.png"


def test_validation_records_psnr(coloured):
    """That of `evaluation`, for shape 0 of object 0 and shape 1 of object 1, from their own views and those opposite."""
    model = load_run(coloured)
    data = model.dataset.open(model.options, "val")
    assert data.num_objects == 2 and len(data) == 48
    row, found = metrics(coloured)[-1], []
    for one, other in ((0, 12), (25, 37)):
        batch = data.gather([one, other])
        nearest = colours.Nearest(data, [0])
        found.append(colours.seen_colours(model, data, model.predict(batch.images), batch, torch.tensor([1, 0]), nearest)[0])
    wanted = dict(zip(colours.FIGURES, torch.stack(found).mean(0).tolist()))
    assert 5 < row["val_psnr_own"] == pytest.approx(wanted["psnr_own"], abs=1e-4)
    assert 5 < row["val_psnr_new"] == pytest.approx(wanted["psnr_new"], abs=1e-4) != row["val_psnr_own"]
    assert [{"val_psnr_own", "val_psnr_new"} <= set(r) for r in metrics(coloured)] == [False, False, True] * 2


def test_the_dashboard_shows_psnr_in_a_window_of_its_own(coloured, tmp_path):
    shown = dashboard.Follower(coloured, coloured / "samples", "run", VisdomServer())
    shown.read()
    assert {name: len(curve) for name, curve in shown.curves["PSNR"].items()} == {"own view": 2, "new view": 2}
    assert not any("psnr" in name for name in shown.curves["losses"])


def test_without_colours_nothing_of_them_is_there(clay):
    assert not any({"colour", "variation", "val_psnr_own"} & set(row) for row in metrics(clay))
    assert set(checkpoint(clay)["models"]) == {"E", "G"}
    figures = json.loads((clay / "evaluation_test_last.json").read_text())
    assert not [key for key in {**figures, **figures["protocol"]} if key.startswith(("psnr", "ssim", "light"))]


def test_a_resumed_run_is_the_same(coloured, data, template, tmp_path):
    assert train(tmp_path / "run", data, template, *CUBES, "--n_iters=3") == 0
    assert train(tmp_path / "run", data, template, *CUBES, "--resume") == 0
    for key in ("models", "optimizers", "rng"):
        assert differences(checkpoint(tmp_path / "run")[key], checkpoint(coloured)[key]) == [], key


# ---- meshes -----------------------------------------------------------------------------------------

def texels(mesh, faces):
    """(F, 3) what a textured trimesh shows at the middle of each face of three vertices of its own."""
    uv, image = mesh.visual.uv[faces].mean(1), np.asarray(mesh.visual.material.baseColorTexture)[::-1]
    return image[(uv[:, 1] * image.shape[0]).astype(int), (uv[:, 0] * image.shape[1]).astype(int), :3] / 255


@pytest.mark.parametrize("size", [1, 3])
def test_obj_and_glb_hold_the_colours_where_they_are(size, tmp_path, template):
    """An asymmetric colouring, whose corners differ: each face of the file shows it where it lies, by trimesh and by
    our own reader, though z is negated and the faces are reversed."""
    import trimesh
    from datasets import CVPR18
    from models import Lattice, TextureDecoder
    vertices, faces = nr.load_obj(template, normalization=False, device="cpu")
    faces = faces.long()
    decoder, places = TextureDecoder(vertices, faces, size, 4), Lattice(vertices, faces, size).places
    textures = decoder.cubes(torch.from_numpy(places).float()[None] * torch.tensor([.3, .2, .4]) + .5)[0]
    write_glb(tmp_path / "a.glb", CVPR18, vertices, faces, textures=textures)
    write_obj(tmp_path / "a.obj", CVPR18, vertices, faces, textures=textures)
    assert {path.name for path in tmp_path.iterdir()} == {"a.glb", "a.obj", "a_colours.mtl", "a_colours.png"}
    people, turned = people_mesh(CVPR18, vertices, faces)
    middles = people[turned].mean(1)
    expected = middles * (1, 1, -1) * (.3, .2, .4) + .5
    for mesh in (*trimesh.load(tmp_path / "a.glb", process=False).geometry.values(),
                 trimesh.load(tmp_path / "a.obj", process=False)):
        corners = np.asarray(mesh.vertices)[mesh.faces]
        order = np.linalg.norm(corners.mean(1)[None] - middles[:, None], axis=2).argmin(1)
        np.testing.assert_allclose(corners.mean(1)[order], middles, atol=1e-6)
        if hasattr(mesh.visual.material, "baseColorTexture"):
            np.testing.assert_allclose(texels(mesh, mesh.faces)[order], expected, atol=.03)
            normals = np.asarray(mesh.vertex_normals)[mesh.faces]
            assert ((normals * middles[order][:, None]).sum(-1) > 0).all()  # outwards, and smooth: a corner's own
            assert np.abs(normals[:, 0] - normals[:, 1]).max() > .1
        else:
            assert mesh.visual.uv is not None
    back = nr.load_obj(tmp_path / "a.obj", normalization=False, texture_size=max(size, 2), load_texture=True, device="cpu")
    assert (back[1].numpy() == turned).all()
    np.testing.assert_allclose(back[2].numpy()[:, 0, 0, 0], expected, atol=.03)
    corner = back[2].numpy()[:, -1, 0, 0]
    own = people_textures(CVPR18, textures)[:, -1, 0, 0]
    np.testing.assert_allclose(corner, own, atol=.03)
    raw = people_textures(CVPR18, textures, "renderer")
    assert np.array_equal(raw, textures.numpy())


def test_reconstruct_in_colours(coloured, images, tmp_path):
    import trimesh
    assert call("--mode=reconstruct", "--ckpt_dir", coloured, "--load_im", images, "--sample_dir", tmp_path, *CPU) == 0
    for name in "ab":
        left = {path.name[len(f"{name}_out"):] for path in tmp_path.glob(f"{name}_out*")}
        assert left == {".obj", ".glb", ".png", ".gif", "_colours.mtl", "_colours.png"}
        assert trimesh.load(tmp_path / f"{name}_out.glb", force="mesh").visual.kind == "texture"
        with Image.open(tmp_path / f"{name}_out.png") as views:
            assert views.size == (6 * 132 + 4, 4 * 132 + 4)  # not the atlas
    model = load_run(coloured)
    prediction = model.predict(torch.rand(2, 4, 64, 64))
    assert prediction.textures.shape == (2, 80, 3, 3, 3, 3) and prediction.cpu().textures is not None
    page = (tmp_path / "reconstructions.html").read_text()
    assert page.count("data-colours=") == 2


def test_interpolation_in_colours(coloured, images, tmp_path):
    assert call("--mode=interpolation", "--ckpt_dir", coloured, "--load_im", images / "a.png", "--load_im1",
                images / "b.png", "--steps=2", "--sample_dir", tmp_path, *CPU) == 0
    assert (tmp_path / "interpolation_00_colours.png").exists() and (tmp_path / "interpolation_01_colours.mtl").exists()


# ---- figures ----------------------------------------------------------------------------------------

def test_evaluation_has_the_figures_of_colours(coloured, clay, tmp_path, capsys):
    found = json.loads((coloured / "evaluation_test_last.json").read_text())
    names = [f"{figure}_{view}{control}" for figure in ("psnr", "ssim") for view in ("own", "new")
             for control in ("", "_mean", "_nearest")]
    assert all(set(found[name]) == {CAR} for name in names)
    assert all(5 < found[name][CAR] < 40 for name in names[:6]) and all(0 < found[name][CAR] < 1 for name in names[6:])
    assert found["protocol"]["light"] == "that of the dataset" and "psnr_own_nearest" in found["protocol"]
    assert call("--mode=compare", "--runs", coloured, clay, "--sample_dir", tmp_path, *CPU) == 0
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert rows[0].split(",")[-12:] == names
    assert rows[1].split(",")[-12] == f"{found['psnr_own'][CAR]:.6f}" and rows[2].split(",")[-12:] == [""] * 12
    assert "PSNR new mean" in (tmp_path / "table.md").read_text()


# ---- weights ----------------------------------------------------------------------------------------

def test_colours_start_from_weights_with_and_without_them(coloured, clay, data, template, tmp_path):
    """A run without colours gives shapes to one with them; a run's file gives its colours, alone or with the rest."""
    start = ("--n_iters=1", "--lr=1e-12")
    assert train(tmp_path / "a", data, template, *CUBES, *start, "--load_E", clay / "last.pt", "--load_G",
                 clay / "last.pt", "--load_T", coloured / "last.pt") == 0
    state, given = checkpoint(tmp_path / "a")["models"], checkpoint(clay)["models"]
    assert torch.allclose(state["E"]["shapeLayer.weight"], given["E"]["shapeLayer.weight"], atol=1e-9)
    colours = checkpoint(coloured)["models"]["T"]["colour_layer.weight"]
    assert colours.abs().max() > 0 and torch.allclose(state["T"]["colour_layer.weight"], colours, atol=1e-9)
    from inference import load_weights
    model = load_weights(str(coloured / "last.pt"), str(coloured / "last.pt"))
    pictures = torch.rand(2, 4, 64, 64)
    assert torch.equal(model.predict(pictures).textures, load_run(coloured).predict(pictures).textures)
    assert load_weights(str(coloured / "last.pt"), str(clay / "last.pt")).predict(pictures).textures is None


# ---- refused ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("more, words", [
    (["--texture_dim=8"], "--texture_dim is of --texture=faces and cubes"),
    (["--lambda_tv=1"], "--lambda_tv is of --texture=faces and cubes"),
    (["--texture=faces", "--texture_size=3"], "--texture_size is of --texture=cubes")])
def test_options_that_nothing_would_look_at(more, words, refused, data):
    assert words in refused("--mode=train", "--data_dir", data, "--ckpt_dir", "x", *more, usage=True)


def test_cubes_too_large_for_memory(refused, data, tmp_path):
    message = refused("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--texture=cubes",
                      "--texture_size=400", *CPU)
    assert "--texture_size=400: cubes of 64000000 texels on 1280 faces take" in message and "GB are free" in message


@pytest.mark.parametrize("mode", ["reconstruct", "evaluation", "interpolation"])
def test_a_colourless_run_asked_for_colours(mode, clay, images, refused, tmp_path):
    more = {"reconstruct": ["--load_im", images], "evaluation": [],
            "interpolation": ["--load_im", images / "a.png", "--load_im1", images / "b.png"]}[mode]
    message = refused(f"--mode={mode}", "--ckpt_dir", clay, "--texture=faces", "--sample_dir", tmp_path / "out", *more)
    assert f"--texture=faces: the run in {clay} was trained without colours; train one with --texture=faces" in message


def test_other_colours_than_a_run_has(coloured, images, clay, data, template, refused, tmp_path):
    message = refused("--mode=reconstruct", "--ckpt_dir", coloured, "--texture=faces", "--load_im", images)
    assert f"the run in {coloured} was trained with --texture=cubes" in message
    message = refused("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--obj_dir", template,
                      "--lambda_adv=0", *TINY, "--load_T", clay / "last.pt", "--texture=faces")
    assert "is of a run without a texture decoder" in message
    message = refused("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--obj_dir", template,
                      "--lambda_adv=0", *TINY, "--load_T", coloured / "last.pt")
    assert "with --texture=none there are no colours" in message
