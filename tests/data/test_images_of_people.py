"""Images and masks as users have them: how the object is found, and which files are ignored."""
import numpy as np
import pytest
import torch
from errors import InputError
from images import list_images, load_image, load_photo
from PIL import Image

DISC = (np.hypot(*np.mgrid[-32:32, -32:32]) < 15).astype(np.float32)


def picture(path, alpha=None, ground=255, colour=(200, 30, 30)):
    pixels = np.where(DISC[..., None] > 0, np.uint8(colour), np.uint8(ground)).astype(np.uint8)
    if alpha is not None:
        pixels = np.concatenate([pixels, np.broadcast_to(np.uint8(alpha), (64, 64))[..., None]], 2)
    Image.fromarray(pixels).save(path)
    return str(path)


def shape_of(image):
    return (image[3] > .5).float().numpy()


@pytest.mark.parametrize("alpha", [None, 255, 254, 200, 128, "one pixel", "a few pixels"])
def test_uniform_alpha_is_not_taken_as_the_mask(alpha, tmp_path, capsys):
    if isinstance(alpha, str):
        value, alpha = alpha, np.full((64, 64), 255, np.uint8)
        alpha[0, :1 if value == "one pixel" else 6] = 0
    image = load_image(picture(tmp_path / "a.png", alpha), 64)
    assert np.array_equal(shape_of(image), DISC) and not capsys.readouterr().err
    whole = load_photo(picture(tmp_path / "a.png", alpha), 64)
    assert (whole[:, 0, 30] == 1).all(), "nothing is cut off, nothing is darkened"


@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (5, 5, 5, 5), (12, 12, 0, 0), (0, 0, 0, 9), (0, 1, 0, 0)])
def test_a_transparent_frame_makes_no_object_of_a_picture(sides, tmp_path, capsys):
    top, bottom, left, right = sides
    alpha = np.zeros((64, 64), np.uint8)
    alpha[top:64 - bottom, left:64 - right] = 255
    path = picture(tmp_path / "a.png", alpha)
    assert np.array_equal(shape_of(load_image(path, 64)), DISC)
    assert f"note: alpha shows a full rectangle in {path}; the object is what differs" in capsys.readouterr().err
    assert (load_photo(path, 64).sum(0) > .5).all(), "the frame is cut off"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(np.dstack([noise, alpha])).save(path)
    with pytest.raises(InputError, match="neither alpha nor a uniform background; give --mask"):
        load_image(path, 64)


def test_a_small_rectangle_is_an_object(tmp_path):
    alpha = np.zeros((64, 64), np.uint8)
    alpha[20:40, 16:48] = 255
    assert np.array_equal(shape_of(load_image(picture(tmp_path / "a.png", alpha), 64)), alpha > 0)


def test_masks_that_are_too_dark_are_refused(tmp_path):
    path = picture(tmp_path / "a.png")
    for value, load in ((1, load_image), (60, load_photo)):
        Image.fromarray(np.uint8(DISC * value)).save(tmp_path / "mask.png")
        with pytest.raises(InputError, match=f"its mask is empty .its brightest pixel has {value} of 255; the object"):
            load(path, 64, str(tmp_path / "mask.png"))


def test_alpha_that_shows_an_object_is_the_mask(tmp_path):
    image = load_image(picture(tmp_path / "a.png", (DISC * 255).astype(np.uint8), ground=(10, 200, 10)), 64)
    assert np.array_equal(shape_of(image), DISC)
    with pytest.raises(InputError, match="its alpha is empty"):
        load_image(picture(tmp_path / "a.png", 0), 64)


def test_a_warning_if_the_object_touches_all_borders(tmp_path, capsys):
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[20:40, 20:40] = 0
    load_image(picture(tmp_path / "a.png", alpha), 64)
    assert f"warning: in {tmp_path}/a.png the object touches all four borders" in capsys.readouterr().err


def test_a_mask_may_have_the_object_in_its_alpha(tmp_path):
    path = picture(tmp_path / "a.png")
    white = np.full((64, 64, 4), 255, np.uint8)
    white[..., 3] = DISC * 255
    Image.fromarray(white).save(tmp_path / "alpha.png")
    Image.fromarray((DISC * 255).astype(np.uint8)).save(tmp_path / "plain.png")
    results = [load_image(path, 64, str(tmp_path / name)) for name in ("alpha.png", "plain.png")]
    assert torch.equal(*results) and np.array_equal(shape_of(results[0]), DISC)


def test_hidden_and_system_files_are_ignored(tmp_path, capsys):
    picture(tmp_path / "car0.png")
    for name in ("._car0.png", ".DS_Store", "Thumbs.db", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "__MACOSX").mkdir()
    assert list_images(str(tmp_path)) == [str(tmp_path / "car0.png")]
    assert capsys.readouterr().out == (f"ignored in {tmp_path}: 5 hidden or system files (.DS_Store, "
                                       "...)\n")


def test_reconstruct_leaves_out_broken_images_on_request(tmp_path, capsys):
    import json
    from types import SimpleNamespace
    from datasets import CVPR18
    from modes import reconstruct
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    model = SimpleNamespace(options={"img_size": 64}, dataset=CVPR18)
    paths = list_images(str(tmp_path))
    options = SimpleNamespace(skip_bad=False, mask=None, load_im=str(tmp_path))
    with pytest.raises(InputError, match="b.png is not an image that can be read.*; --skip_bad leaves out such images"):
        reconstruct._read_images(paths, model, options)
    options.skip_bad = True
    good, images, bad = reconstruct._read_images(paths, model, options)
    assert [good, len(images), list(bad)] == [paths[:1], 1, paths[1:]]
    said = capsys.readouterr().out
    assert "left out, because their files are broken (1):" in said and "b.png is not an image" in said
    assert json.loads(json.dumps(bad)) == bad
    with pytest.raises(InputError, match="--skip_bad leaves no image"):
        reconstruct._read_images(paths[1:], model, options)
