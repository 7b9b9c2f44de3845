"""--load_E, --load_G, --load_D: state dicts of the published program, run files of this program, and other files.
The hand-made state dicts have the published names and layout; the reference is written out here."""
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from command import CAR, TINY, call, checkpoint
from errors import InputError
from inference import load_run, load_weights
from models import icosphere
from torch.nn import functional as F

LATENT, WIDTH, TEMPLATE_VERTICES = 16, 2, 42


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05


def layer(name, *shape):
    return {f"{name}.weight": random(*shape), f"{name}.bias": random(shape[0])}


def published(part, step=2):
    """A state dict. Every `step`-th layer has weights; the numbers between belong to layers without."""
    if part == "E":
        channels = (4, WIDTH, 2 * WIDTH, 4 * WIDTH)
        state = {}
        for i in range(3):
            state |= layer(f"convBlocks.{step * i}", channels[i + 1], channels[i], 5, 5)
        state |= layer("FC.0", 16 * WIDTH, 64 * 4 * WIDTH) | layer(f"FC.{step}", 16 * WIDTH, 16 * WIDTH)
        return state | layer("shapeLayer", LATENT, 16 * WIDTH) | layer("muLayer", 7, 16 * WIDTH) \
            | layer("logvarLayer", 7, 16 * WIDTH)
    if part == "G":
        return layer("fclayers.0", 1024, LATENT) | layer(f"fclayers.{step}", 2048, 1024) \
            | layer("bias_layer", 3 * TEMPLATE_VERTICES, 2048)
    return layer("hidden_layer0", 256, LATENT) | layer("hidden_layer1", 128, 256) | layer("digit_layer", 24, 128)


def reference(images, E, G, step=2):
    """Codes and vertices by plain torch functions, from the published files."""
    x = images
    for i in range(3):
        x = F.conv2d(x, E[f"convBlocks.{step * i}.weight"], E[f"convBlocks.{step * i}.bias"], 2, 2).relu()
    x = x.flatten(1)
    for name in ("FC.0", f"FC.{step}"):
        x = F.linear(x, E[f"{name}.weight"], E[f"{name}.bias"]).relu()
    codes = x = F.linear(x, E["shapeLayer.weight"], E["shapeLayer.bias"])
    for name in ("fclayers.0", f"fclayers.{step}"):
        x = F.linear(x, G[f"{name}.weight"], G[f"{name}.bias"]).relu()
    offsets = F.linear(x, G["bias_layer.weight"], G["bias_layer.bias"]).view(len(x), -1, 3)
    return codes, 0.5 * (icosphere(1)[0] + offsets)


@pytest.fixture
def files(tmp_path):
    """{part: path} of a published folder's last-E.ckpt, last-G.ckpt, last-D.ckpt."""
    folder = tmp_path / f"ckpt3D_{CAR}"
    folder.mkdir()
    paths = {part: folder / f"last-{part}.ckpt" for part in "EGD"}
    for part, path in paths.items():
        torch.save(published(part), path)
    return paths


IMAGES = torch.rand(3, 4, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("zipped", [True, False])
def test_published_weights_predict_what_they_should(step, zipped, template, tmp_path):
    E, G = published("E", step), published("G", step)
    for name, state in (("E", E), ("G", G)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    model = load_weights(tmp_path / "E", tmp_path / "G", settings={"obj_dir": template})
    prediction = model.predict(IMAGES)
    codes, vertices = reference(IMAGES, E, G, step)
    torch.testing.assert_close(prediction.codes, codes)
    torch.testing.assert_close(prediction.vertices, vertices)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_weights_of_wrapped_networks(prefix, template, files, tmp_path):
    """torch.nn.DataParallel and torch.compile put a prefix before all names."""
    def wrapped(state, name):
        torch.save({prefix + key: value for key, value in state.items()}, tmp_path / name)
        return tmp_path / name
    E, G = (wrapped(published(part), part) for part in "EG")
    plain = load_weights(files["E"], files["G"], settings={"obj_dir": template}).predict(IMAGES)
    prediction = load_weights(E, G, settings={"obj_dir": template}).predict(IMAGES)
    assert torch.equal(prediction.vertices, plain.vertices)
    half = {(prefix + key if k % 2 else key): value for k, (key, value) in enumerate(published("E").items())}
    torch.save(half, tmp_path / "E")
    with pytest.raises(InputError, match="does not fit an encoder"):
        load_weights(tmp_path / "E", G, settings={"obj_dir": template})


def test_weights_for_images_in_bgr_order_are_turned(template, files):
    """The published program read the images of NIPS17 with OpenCV as BGR; this program reads RGB."""
    bgr = IMAGES[:, [2, 1, 0, 3]]
    model = load_weights(files["E"], files["G"], settings={"obj_dir": template, "dataset": "NIPS17"})
    torch.testing.assert_close(model.predict(IMAGES).codes, reference(bgr, published("E"), published("G"))[0])


def test_weights_of_a_resnet_and_a_symmetric_decoder(tmp_path):
    """The networks of Pascal3D at 224 px, with our names and with the published names, whose classifier is not used."""
    encoder, decoder = resnet()
    torch.save(decoder.state_dict(), tmp_path / "G")
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        wanted = decoder(encoder(images))
    for state in (encoder.state_dict(), published_resnet(encoder)):
        torch.save(state, tmp_path / "E")
        model = load_weights(tmp_path / "E", tmp_path / "G", settings={"dataset": "Pascal3D", "symmetric": True})
        torch.testing.assert_close(model.predict(images).vertices, wanted)


def resnet():
    """A small ResNet whose batch normalisation has seen images, and a symmetric decoder for its codes."""
    from models import SymmetricMeshDecoder, make_encoder
    torch.manual_seed(0)
    encoder, decoder = make_encoder(224, 3, 32, 4), SymmetricMeshDecoder(icosphere(3)[0], 32)
    encoder(torch.rand(2, 3, 224, 224))
    return encoder.eval(), decoder


def published_resnet(encoder):
    return {f"model.{name}": value for name, value in encoder.state_dict().items()} | layer("model.fc", 1000, 32)


def published_view_discriminator(views=24):
    """The state dict of VPL's discriminator. All layers of `model` are numbered, including those without weights."""
    state, before = {}, 1 + views
    for width, conv, norm in ((128, 0, None), (256, 2, 3), (512, 5, 6), (1024, 8, 9)):
        state |= layer(f"model.{conv}", width, before, 4, 4)
        if norm:
            state |= {**layer(f"model.{norm}", width), f"model.{norm}.running_mean": random(width),
                      f"model.{norm}.running_var": 1 + random(width).abs(),
                      f"model.{norm}.num_batches_tracked": torch.tensor(7)}
        before = width
    return state | layer("adv_layer.0", 1, 1024 * 4 * 4)


def test_published_weights_of_a_view_discriminator(tmp_path):
    """Compare with the logit from plain torch functions and the file."""
    from engine import weights
    from models import ViewDiscriminator
    state = published_view_discriminator()
    torch.save(state, tmp_path / "D")
    ours = ViewDiscriminator(24, 64).eval()
    weights.put_into(ours, weights.read(tmp_path / "D", "D")[0], "--load_D=D", "D")
    silhouettes, views = torch.rand(3, 64, 64), torch.tensor([0, 5, 23])
    x = torch.cat([silhouettes[:, None], torch.zeros(3, 24, 64, 64)], 1)
    x[range(3), 1 + views] = 1
    for conv, norm in ((0, None), (2, 3), (5, 6), (8, 9)):
        x = F.conv2d(x, state[f"model.{conv}.weight"], state[f"model.{conv}.bias"], 2, 1)
        if norm:
            x = F.batch_norm(x, *(state[f"model.{norm}.{name}"] for name in
                                  ("running_mean", "running_var", "weight", "bias")))
        x = F.leaky_relu(x, 0.2)
    wanted = F.linear(x.flatten(1), state["adv_layer.0.weight"], state["adv_layer.0.bias"])[:, 0]
    torch.testing.assert_close(ours(silhouettes, views), wanted)


def test_training_starts_from_published_names(template, data, tmp_path):
    """VPL's discriminator on the command line; Pascal3D's encoder has its own test."""
    state = published_view_discriminator()
    torch.save(state, tmp_path / "D.ckpt")
    assert call("--mode=trainCVPR19", "--data_dir", data, "--ckpt_dir", tmp_path / "run", *TINY, "--n_iters=1",
                "--lr=1e-12", "--obj_dir", template, "--load_D", tmp_path / "D.ckpt") == 0
    trained = checkpoint(tmp_path / "run")["models"]["D"]
    torch.testing.assert_close(trained["convBlocks.2.weight"], state["model.2.weight"], rtol=0, atol=1e-9)
    torch.testing.assert_close(trained["digit_layer.bias"], state["adv_layer.0.bias"], rtol=0, atol=1e-9)


def test_weights_of_neither_naming_are_told_with_both(tmp_path, refused, data, template):
    encoder, _ = resnet()
    state = published_resnet(encoder)
    del state["model.bn1.weight"]
    torch.save(state, tmp_path / "E")
    with pytest.raises(InputError, match="bn1.weight is missing, and so is model.bn1.weight, its name in the "
                                         "published program"):
        load_weights(tmp_path / "E", settings={"dataset": "Pascal3D"})
    torch.save(published("D"), tmp_path / "D")
    line = refused("--mode=trainCVPR19", "--data_dir", data, "--ckpt_dir", tmp_path / "run", *TINY,
                   "--obj_dir", template, "--load_D", tmp_path / "D")
    assert "convBlocks.0.weight is missing, and so is model.0.weight" in line


def test_a_published_folder_is_read_like_a_run(files, template):
    prediction = load_run(files["E"].parent, settings={"obj_dir": template}).predict(IMAGES)
    codes, vertices = reference(IMAGES, published("E"), published("G"))
    torch.testing.assert_close(prediction.codes, codes)
    torch.testing.assert_close(prediction.vertices, vertices)


def test_run_files_bring_their_own_options(ae):
    model, whole = load_weights(ae / "last.pt", ae / "last.pt"), load_run(ae)
    assert model.options["latent_dim"] == 16 and model.step == 6
    torch.testing.assert_close(model.predict(IMAGES).vertices, whole.predict(IMAGES).vertices, rtol=0, atol=0)


def weights_of(files, template, *parts):
    return ["--obj_dir", template, *(word for part in parts for word in (f"--load_{part}", files[part]))]


def test_evaluation(files, template, data, tmp_path):
    """--load_E with --load_G, and a folder of folders of the published program, give the same figures."""
    assert call("--mode=evaluation", "--data_dir", data, "--sample_dir", tmp_path / "out", "--device=cpu",
                *weights_of(files, template, "E", "G")) == 0
    assert call("--mode=evaluation", "--data_dir", data, "--ckpt_dir", tmp_path, "--device=cpu",
                "--obj_dir", template) == 0
    name = "evaluation_test_last.json"
    a, b = (json.loads((folder / name).read_text()) for folder in (tmp_path / "out", tmp_path))
    assert a["iou"] == b["iou"] and 0 < a["iou"][CAR] < 1 and a["protocol"]["step"] is None
    assert str(files["E"]) in a["protocol"]["model"]
    assert call("--mode=compare", "--data_dir", data, "--sample_dir", tmp_path / "compare", "--device=cpu",
                "--obj_dir", template, "--runs", files["E"].parent) == 0
    assert (tmp_path / "compare" / "compare.png").exists()


def test_pictures(files, template, data, tmp_path):
    from PIL import Image
    images = np.load(data / f"{CAR}_test_images.npz")["arr_0"]
    for i in (0, 1):
        Image.fromarray(images[i, 3].transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    more = ["--device=cpu", *weights_of(files, template, "E", "G")]
    assert call("--mode=reconstruct", "--load_im", tmp_path / "0.png", "--sample_dir", tmp_path / "a", *more) == 0
    assert call("--mode=interpolation", "--load_im", tmp_path / "0.png", "--load_im1", tmp_path / "1.png",
                "--sample_dir", tmp_path / "b", *more) == 0
    assert (tmp_path / "a" / "0_out.glb").exists() and (tmp_path / "b" / "interpolation.gif").exists()


def test_mmd_and_t_sne_need_only_encoders(files, ae, data, tmp_path):
    """Several encoders and run folders in one table."""
    assert call("--mode=MMD", "--data_dir", data, "--runs", ae, "--load_E", files["E"], ae / "last.pt",
                "--sample_dir", tmp_path / "out", "--device=cpu") == 0
    runs = json.loads((tmp_path / "out" / "MMD_test.json").read_text())["runs"]
    assert [r["run"] for r in runs] == [str(ae), str(files["E"]), str(ae / "last.pt")]
    assert runs[0]["mean"] == runs[2]["mean"] != runs[1]["mean"] and runs[1]["step"] is None
    assert call("--mode=t_SNE", "--data_dir", data, "--load_E", files["E"], "--perplexity=5", "--sample_dir",
                tmp_path / "out", "--device=cpu") == 0


def test_training_starts_from_them(files, template, data, tmp_path):
    """With a very low learning rate, the first step leaves the given weights unchanged. Resuming does not read them
    again."""
    command = ["--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", *TINY, "--enc_width=2",
               "--n_iters=2", "--lr=1e-12", *weights_of(files, template, "E", "G", "D")]
    assert call(*command) == 0
    models = checkpoint(tmp_path / "run")["models"]
    for part in "EGD":
        for name, value in models[part].items():
            torch.testing.assert_close(value, published(part)[name], rtol=0, atol=1e-9)
    for path in files.values():
        path.unlink()
    assert call(*command, "--resume", "--n_iters=3") == 0


# ---- what is neither -------------------------------------------------------------------------------

@pytest.fixture
def told(refused, files, template, data, tmp_path):
    """A function that returns the one error line of a mode for refused weights."""
    def check(*parts, mode="evaluation", more=()):
        return refused(f"--mode={mode}", "--data_dir", data, "--sample_dir", tmp_path / "no", "--device=cpu",
                       *weights_of(files, template, *parts), *more)
    return check


class Runs:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("packed", ["zip", "legacy", "pickle"])
def test_files_that_would_run_something(packed, told, files, tmp_path):
    harm = {"convBlocks.0.weight": Runs(tmp_path / "ran")}
    if packed == "pickle":
        files["E"].write_bytes(pickle.dumps(harm))
    else:
        torch.save(harm, files["E"], _use_new_zipfile_serialization=packed == "zip")
    assert str(files["E"]) in told("E", "G")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02.", b"PK\x03\x04", bytes(1000), "cut",
                                     "flipped"])
def test_damaged_files(content, told, files):
    whole = bytearray(files["E"].read_bytes())
    if content == "cut":
        content = whole[:len(whole) // 2]
    elif content == "flipped":
        whole[len(whole) // 2] ^= 1
        content = whole
    files["E"].write_bytes(content)
    assert str(files["E"]) in told("E", "G")


@pytest.mark.parametrize("state", [[1], {}, {"a": 1}, {3: torch.ones(2)}, {"model": {"a": torch.ones(1)}},
                                   {"a": torch.ones(2).to_sparse()}, {"a": torch.ones(2) * 1j}], ids=str)
def test_other_files_of_torch(state, told, files):
    torch.save(state, files["E"])
    line = told("E", "G")
    assert f"--load_E={files['E']}" in line and "state dict" in line


def changed(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("part, change, words", [
    ("E", lambda s: s.pop("FC.2.bias"), ["FC.2.bias is missing"]),
    ("E", lambda s: s.update(extra=torch.ones(1)), ["extra", "none of its weights"]),
    ("E", lambda s: s.pop("convBlocks.0.weight"), ["convBlocks"]),
    ("E", lambda s: s["FC.0.bias"].fill_(torch.nan), ["FC.0.bias is not finite"]),
    ("E", lambda s: s.update({"FC.0.bias": torch.ones(3)}), ["FC.0.bias has shape (3,), expected (32,)"]),
    ("G", lambda s: s.update(layer("bias_layer", 3 * 642, 2048)), ["(1926, 2048)", "(126, 2048)", "--obj_dir"]),
    ("G", lambda s: s.update(layer("fclayers.0", 1024, 512)), ["codes of 16", "takes 512"])])
def test_weights_that_do_not_fit(part, change, words, told, files):
    changed(files[part], change)
    line = told("E", "G")
    assert str(files[part]) in line and all(word in line for word in words), line


def test_parts_in_the_wrong_place(told, files, ae):
    files["E"], files["G"] = files["G"], files["E"]
    assert "convBlocks.0.weight is missing" in told("E", "G") or "not an encoder" in told("E", "G")
    files["D"] = ae / "last.pt"
    assert "without a discriminator" in told("D", mode="train", more=("--ckpt_dir", files["G"].parent / "no"))


def test_combinations(told, files, tmp_path, refused):
    assert "--load_E and --load_G together" in told("E")
    images = ("--load_im", "a", "--load_im1", "b")
    assert "--load_E and --load_G together" in told("G", mode="interpolation", more=images)
    assert "takes one encoder, got 2" in told("G", more=("--load_E", files["E"], files["E"]))
    assert "gone.ckpt: there is no such file" in told("G", more=("--load_E", tmp_path / "gone.ckpt"))
    assert "--load_E" in told(mode="MMD")
    new = ("--ckpt_dir", tmp_path / "new", *TINY)
    line = told("E", mode="train", more=(*new, "--enc_width=2", "--latent_dim=20"))
    assert "--latent_dim=16, this run --latent_dim=20" in line
    assert "--lambda_adv=0" in told("D", mode="train", more=(*new, "--lambda_adv=0"))
    line = refused("--mode=MMD", "--load_E", files["E"], "--sample_dir", tmp_path / "no")
    assert "--data_dir" in line


def test_a_published_folder_without_its_decoder(files, refused, data, tmp_path):
    shutil.move(files["G"], tmp_path / "elsewhere")
    assert "last-G.ckpt" in refused("--mode=evaluation", "--data_dir", data, "--ckpt_dir", files["E"].parent)
