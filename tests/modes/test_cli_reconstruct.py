"""`--mode=reconstruct`: every kind of picture, and the files that it writes."""
import numpy as np
import pytest
import torch
import trimesh
from command import CAR, call, process
from images import load_image
from inference import load_run
from neural_renderer import load_obj
from PIL import Image


@pytest.fixture(scope="module")
def car(data):
    """A picture of the dataset: uint8 (4, 64, 64), colours multiplied by alpha."""
    return np.load(data / f"{CAR}_test_images.npz")["arr_0"][1, 3]


def straight(image):
    """The picture with straight alpha: colours not multiplied by alpha."""
    rgb = np.round(image[:3] * 255.0 / np.maximum(image[3], 1)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate([rgb, image[3:]]).transpose(1, 2, 0))


def on(image, ground, margin=(0, 0), scale=1):
    """The picture on a uniform colour, scaled up, with margins at the sides, above and below."""
    size = image.width * scale, image.height * scale
    paper = Image.new("RGB", (size[0] + 2 * margin[0], size[1] + 2 * margin[1]), ground)
    large = image.resize(size, Image.Resampling.NEAREST)
    paper.paste(large, margin, large)
    return paper


def reconstruct(run, path, out, *more):
    return call("--mode=reconstruct", "--ckpt_dir", run, "--load_im", path, "--sample_dir", out,
                "--device=cpu", "--threads=1", *more)


# ---- pictures in -----------------------------------------------------------------------------------

def test_image_of_the_dataset_comes_back_as_it_was(car, tmp_path):
    straight(car).save(tmp_path / "car.png")
    again = load_image(str(tmp_path / "car.png"), 64)
    assert again.shape == (4, 64, 64) and again.dtype == torch.float32
    assert np.abs(again.numpy() * 255 - car).max() <= 2


def silhouette(tensor):
    return tensor[3].numpy() > 0.5


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def save_palette(image, path):
    """A PNG with 255 colours and a transparent one."""
    flat = image.convert("RGB").quantize(255)
    pixels = np.array(flat)
    pixels[np.array(image)[..., 3] < 128] = 255
    picture = Image.fromarray(pixels, "P")
    picture.putpalette(flat.getpalette()[:765] + [0, 255, 0])
    picture.save(path, transparency=255)


def save_deep(image, path):
    """16-bit grey on a dark background that is not black, as depth cameras and scanners write."""
    grey = np.array(image.convert("L")).astype(np.uint16)
    Image.fromarray(np.where(np.array(image)[..., 3] > 127, 20000 + 150 * grey, 3000).astype(np.uint16)).save(path)


def save_turned(image, path):
    """A photograph by a camera held upright: the pixels are rotated, and EXIF contains the rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers must rotate it clockwise by 90 degrees
    turned = on(image, (255, 255, 255), scale=2).transpose(Image.Transpose.ROTATE_90)
    turned.save(path, exif=exif, quality=95)


WAYS = {
    "alpha.png": lambda image, path: image.save(path),
    "large.png": lambda image, path: image.resize((256, 256), Image.Resampling.NEAREST).save(path),
    "alpha.webp": lambda image, path: image.save(path, lossless=True, exact=True),
    "palette.png": save_palette,
    "grey_alpha.png": lambda image, path: image.convert("LA").save(path),
    "white.jpg": lambda image, path: on(image, (255, 255, 255), scale=4).save(path, quality=95),
    "blue.bmp": lambda image, path: on(image, (0, 0, 255)).save(path),
    "cmyk.jpg": lambda image, path: on(image, (255, 255, 255), scale=2).convert("CMYK").save(path, quality=95),
    "opaque.png": lambda image, path: on(image, (0, 255, 0)).convert("RGBA").save(path),
    "grey.png": lambda image, path: on(image, (0, 0, 0)).convert("L").point(lambda v: v).save(path),
    "frame.gif": lambda image, path: on(image, (255, 0, 255)).quantize(200, dither=Image.Dither.NONE).save(path),
    "deep.tif": save_deep, "deep.png": save_deep, "turned.jpg": save_turned}


@pytest.mark.parametrize("name", WAYS)
def test_every_kind_of_picture_shows_the_same_object(name, car, tmp_path):
    image, path = straight(car), tmp_path / name
    WAYS[name](image, path)
    got = load_image(str(path), 64)
    assert got.shape == (4, 64, 64) and 0 <= float(got.min()) and float(got.max()) <= 1
    assert overlap(silhouette(got), car[3] > 127) > 0.9
    assert float(got[:3].amax(0)[got[3] == 0].max()) == 0  # on black
    if name in ("alpha.png", "large.png", "alpha.webp"):
        assert np.abs(got.numpy() * 255 - car).mean() < 1
    elif name in ("white.jpg", "opaque.png", "palette.png", "blue.bmp", "cmyk.jpg"):
        inside = car[3] == 255
        assert np.abs(got.numpy()[:3, inside] * 255 - car[:3, inside]).mean() < 12
    elif name.startswith("deep"):
        wanted = (20000 + 150.0 * np.array(image.convert("L"))) / 65535
        assert np.abs(got.numpy()[:3] - wanted)[:, car[3] == 255].mean() < 0.05


@pytest.mark.parametrize("margin", [(32, 0), (0, 100), (7, 0)])
def test_pictures_that_are_not_square_keep_their_proportions(margin, car, tmp_path):
    on(straight(car), "white", margin).save(tmp_path / "car.png")
    y, x = np.nonzero(silhouette(load_image(str(tmp_path / "car.png"), 64)))
    v, u = np.nonzero(car[3] > 127)
    scale = 64 / (64 + 2 * max(margin))
    for got, wanted in ((x, u), (y, v)):
        assert np.ptp(got) + 1 == pytest.approx((np.ptp(wanted) + 1) * scale, abs=2)
        assert got.mean() - 31.5 == pytest.approx((wanted.mean() - 31.5) * scale, abs=1)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "I;16"])
def test_mask(mode, car, tmp_path):
    """A mask is white where the object is, in any kind of picture. It overrides alpha."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    noise[car[3] > 0] = np.array(straight(car))[car[3] > 0][:, :3]
    Image.fromarray(noise).save(tmp_path / "car.png")
    mask = Image.fromarray(car[3])
    mask = Image.fromarray(car[3].astype(np.uint16) * 257) if mode == "I;16" else mask.convert(mode)
    mask.save(tmp_path / "mask.png")
    got = load_image(str(tmp_path / "car.png"), 64, str(tmp_path / "mask.png"))
    assert overlap(silhouette(got), car[3] > 127) > 0.95
    if mode != "1":
        assert np.abs(got[3].numpy() * 255 - car[3]).max() <= 1


# ---- files out -------------------------------------------------------------------------------------

def test_one_file_by_a_process_of_its_own(featgan, car, tmp_path):
    straight(car).save(tmp_path / "my car.png")
    done = process("--mode=reconstruct", "--ckpt_dir", featgan, "--load_im", tmp_path / "my car.png",
                   "--device=cpu", "--eval_flag=best", "--sample_dir", tmp_path / "out/deep")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(p.name for p in (tmp_path / "out/deep").iterdir()) == [
        "my car.png", "my car_out.gif", "my car_out.glb", "my car_out.obj", "my car_out.png"]
    assert "my car_out.obj" in done.stdout
    vertices, faces = load_obj(tmp_path / "out/deep/my car_out.obj", normalization=False)
    assert vertices.shape == (642, 3) and faces.shape == (1280, 3)


@pytest.fixture(scope="module")
def folder_of_images(ae, car, tmp_path_factory):
    """Reconstructions of a folder: (images, files written)."""
    base = tmp_path_factory.mktemp("images")
    images = base / "in"
    images.mkdir()
    straight(car).save(images / "a.png")
    on(straight(car), "white", (20, 0), 3).save(images / "a.jpg", quality=95)
    save_palette(straight(car), images / "b.PNG")
    (images / "notes.txt").write_text("not an image")
    assert reconstruct(ae, images, base / "out") == 0
    return images, base / "out"


def test_a_folder_of_images(folder_of_images):
    """Results of two images with the same name keep the ending in their names; files that are no images are ignored."""
    names = sorted(p.name for p in folder_of_images[1].iterdir())
    assert names == sorted(["reconstructions.html", "reconstructions.json", "reconstructions.png"] + [
        stem + end for stem in ("a_png", "a_jpg", "b")
        for end in (".png", "_out.obj", "_out.glb", "_out.png", "_out.gif")])


def test_pictures_and_turntable(folder_of_images):
    out = folder_of_images[1]
    with Image.open(out / "b_out.png") as sheet:
        assert sheet.mode == "RGB" and sheet.size == (6 * 132 + 4, 4 * 132 + 4)
        tiles = [np.array(sheet)[4 + 132 * r:132 * (r + 1), 4 + 132 * c:132 * (c + 1)]
                 for r in range(4) for c in range(6)]
    assert all(tile.shape == (128, 128, 3) and (tile < 250).any(2).mean() > 0.02 for tile in tiles)
    with Image.open(out / "b_out.gif") as turn:
        assert turn.n_frames >= 24 and turn.is_animated and turn.info["loop"] == 0 and turn.size == (160, 160)
    with Image.open(out / "b.png") as picture:
        assert picture.size == (256, 256)


def test_meshes_for_people_and_for_the_renderer(folder_of_images, ae, template, tmp_path):
    images, out = folder_of_images
    assert reconstruct(ae, images / "a.png", tmp_path, "--obj_frame=renderer") == 0
    people, faces = load_obj(out / "a_png_out.obj", normalization=False)
    raw, raw_faces = load_obj(tmp_path / "a_out.obj", normalization=False)
    model = load_run(ae)
    predicted = model.predict(load_image(str(images / "a.png"), 64)[None])
    torch.testing.assert_close(raw, predicted.vertices[0], rtol=0, atol=1e-6)
    assert raw_faces.tolist() == predicted.faces.tolist() == load_obj(template)[1].tolist()
    torch.testing.assert_close(people, raw * torch.tensor([1, 1, -1.0]), rtol=0, atol=1e-6)
    turned = {tuple(np.roll(f, -int(np.argmin(f)))) for f in faces.numpy()}
    assert turned == {tuple(np.roll(f[::-1], -int(np.argmin(f[::-1])))) for f in raw_faces.numpy()}
    for where, vertices, triangles in ((out / "a_png_out.glb", people, faces),
                                       (tmp_path / "a_out.glb", raw, raw_faces)):
        mesh = trimesh.load(where, force="mesh", process=False)
        np.testing.assert_allclose(mesh.vertices, vertices, atol=1e-6)
        assert mesh.faces.tolist() == triangles.tolist()
        assert mesh.volume > 0 and mesh.is_watertight  # six steps from a sphere: still outward


def test_the_same_object_in_a_jpeg_gives_nearly_the_same_mesh(car, ae, folder_of_images):
    a, b = (load_obj(folder_of_images[1] / name, normalization=False)[0] for name in ("a_png_out.obj", "b_out.obj"))
    assert float((a - b).abs().max()) < 0.05 * float((a.amax(0) - a.amin(0)).max())


def test_with_a_mask(ae, car, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "car.png")
    Image.fromarray(car[3]).save(tmp_path / "mask.png")
    assert reconstruct(ae, tmp_path / "car.png", tmp_path / "out", "--mask", tmp_path / "mask.png") == 0
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_two_masks(ae, car, refused, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("car.png", "car1.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
    Image.fromarray(car[3]).save(tmp_path / "mask.png")
    Image.fromarray(car[3][:, ::-1]).save(tmp_path / "mask1.png")
    between = ("--mode=interpolation", "--ckpt_dir", ae, "--load_im", tmp_path / "car.png", "--load_im1",
               tmp_path / "car1.png", "--sample_dir", tmp_path / "out", "--device=cpu", "--mask", tmp_path / "mask.png")
    assert "car1.png" in refused(*between)
    assert call(*between, "--mask1", tmp_path / "mask1.png") == 0


def test_pictures_of_people_are_never_written_over(ae, car, tmp_path):
    """For every --sample_dir and all names of the images."""
    straight(car).save(tmp_path / "car.png")
    straight(car).save(tmp_path / "car_out.png")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    code = reconstruct(ae, tmp_path / "car.png", tmp_path)
    assert code in (0, 2)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize("names", [("a.png", "a.bmp", "a_png.png"), ("a.png", "a_out.png"),
                                   ("reconstructions.png", "reconstructions.jpg")])
def test_no_result_is_written_over_by_another(names, ae, car, tmp_path):
    (tmp_path / "in").mkdir()
    for name in names:
        on(straight(car), "white").save(tmp_path / "in" / name)
    assert reconstruct(ae, tmp_path / "in", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 5 * len(names) + 3  # page, sheet and list


def test_contact_sheet(folder_of_images):
    """Two images in a row, each the input and the mesh from four sides."""
    with Image.open(folder_of_images[1] / "reconstructions.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    assert sheet.shape == (2 * 116, 2 * 492, 3)
    tiles = [[sheet[116 * r + 20:116 * (r + 1), x + 96 * c:x + 96 * (c + 1)] for c in range(5)]
             for r, x in ((0, 6), (0, 498), (1, 6))]
    for row in tiles:
        assert all((tile < 250).any(2).mean() > 0.02 for tile in row)
        assert all(np.abs(row[1].astype(int) - tile).mean() > 1 for tile in row[2:])
    assert (sheet[116 + 20:, 498:] == 255).all()  # there are three
    names = [sheet[116 * r:116 * r + 20, x:x + 486] for r, x in ((0, 6), (0, 498), (1, 6))]
    assert all((name < 128).any() for name in names)


def test_many_images_take_several_sheets(ae, car, tmp_path, monkeypatch):
    monkeypatch.setattr("modes.reconstruct.ON_A_SHEET", 2)
    (tmp_path / "in").mkdir()
    for i in range(3):
        straight(car).save(tmp_path / "in" / f"{i}.png")
    assert reconstruct(ae, tmp_path / "in", tmp_path / "out") == 0
    sizes = [Image.open(tmp_path / "out" / f"reconstructions_{i}.png").size for i in (1, 2)]
    assert sizes == [(2 * 492, 116), (492, 116)] and not (tmp_path / "out" / "reconstructions.png").exists()


# ---- images of the data set ------------------------------------------------------------------------

@pytest.mark.parametrize("more, count, split, why", [
    (("--n_images=1",), 1, "test", ""), (("--n_images=2",), 2, "test", ""),
    ((), 2, "test", ": 2 objects, one image of each (of 48 in all)"),
    (("--split=train", "--n_images=500"), 4, "train", ": 4 objects, one image of each (of 96 in all)")])
def test_images_of_a_split(ae, tmp_path, capsys, more, count, split, why):
    """Without --load_im. The default split is that of evaluation."""
    assert call("--mode=reconstruct", "--ckpt_dir", ae, "--sample_dir", tmp_path, "--device=cpu", *more) == 0
    assert f"{count} images of {split}, without --load_im{why}\n" in capsys.readouterr().out
    assert len(list(tmp_path.glob(f"{CAR}_{split}_*_out.obj"))) == count
