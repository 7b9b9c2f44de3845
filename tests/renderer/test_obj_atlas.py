"""Textured meshes written to files and read back: the atlas, also as trimesh reads it."""
import neural_renderer as nr
import numpy as np
import pytest
import torch
import trimesh
from neural_renderer import textures as cubes
from solids import box, icosphere

def drawn(vertices, faces, textures):
    renderer = nr.Renderer(image_size=64, camera_mode="look_at", light_direction=[0.3, 0.8, -0.5])
    renderer.eye = nr.get_points_from_angles(2.7, 25, 40)
    return renderer.render_rgb(vertices[None].float(), faces[None], textures[None])[0]


@pytest.mark.parametrize("T", [1, 2, 4])
def test_the_same_picture_comes_back(T, tmp_path):
    """Colours that vary smoothly over the sphere. Rounding to 8 bits changes them by at most 0.002; the rest is the
    difference between cubes of T texels and the picture made from them, on faces with edges of about 0.6."""
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.9))
    points = vertices[faces].numpy()
    at = np.einsum("tk,fkc->ftc", cubes.cube_weights(T), points).reshape(-1, T, T, T, 3)
    textures = torch.tensor(0.5 + 0.4 * np.sin(3 * at[..., [1, 2, 0]] + [0, 1, 2])).float()
    nr.save_obj(tmp_path / "a.obj", vertices, faces, textures)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mtl", "a.obj", "a.png"]
    got = nr.load_obj(tmp_path / "a.obj", normalization=False, load_texture=True, texture_size=T)
    before, after = drawn(vertices, faces, textures), drawn(*got)
    assert before.std() > 0.1
    difference = (before - after).abs()
    assert difference.max() < {1: 0.003, 2: 0.03, 4: 0.02}[T] and difference.mean() < 0.003
    turned = drawn(got[0], got[1], got[2].transpose(1, 2))  # negative control: two axes exchanged
    assert T == 1 or (before - turned).abs().max() > 0.1


def test_noise_comes_back_where_more_texels_are_read(tmp_path):
    """A cube of noise has more texels than a picture of the same resolution can show. Read with more texels, it comes
    back."""
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.9))
    textures = torch.rand(80, 4, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    nr.save_obj(tmp_path / "a.obj", vertices, faces, textures)
    before, errors = drawn(vertices, faces, textures), []
    for T in (4, 16):
        got = nr.load_obj(tmp_path / "a.obj", normalization=False, load_texture=True, texture_size=T)
        errors.append((before - drawn(*got)).abs().mean())
    assert errors[1] < 0.003 and errors[0] > 4 * errors[1]


def test_trimesh_opens_what_is_saved(tmp_path):
    vertices, faces = box((-1, -0.5, -0.2), (1, 0.5, 0.2))
    textures = np.random.default_rng(0).random((12, 3, 3, 3, 3))
    nr.save_obj(tmp_path / "my box.obj", vertices, faces, textures)
    mesh = trimesh.load(tmp_path / "my box.obj", process=False)
    np.testing.assert_allclose(mesh.triangles, vertices[faces], atol=1e-6)
    colours = mesh.visual.to_color().vertex_colors[mesh.faces][..., :3] / 255.0
    expected = np.stack([textures[:, 2, 0, 0], textures[:, 0, 2, 0], textures[:, 0, 0, 2]], 1)
    np.testing.assert_allclose(colours, expected, atol=0.5 / 255 + 1e-6)


def test_a_tile_does_not_mix_with_its_neighbours():
    """The border around the triangle has the face's own colour."""
    image, uv = cubes.atlas(np.eye(3)[np.arange(7) % 3][:, None, None, None])
    away = uv + 0.9 * (uv - uv.mean(1, keepdims=True)) / np.abs(uv - uv.mean(1, keepdims=True)).max() \
        / image.shape[1]
    np.testing.assert_allclose(cubes.sample(image, away.reshape(-1, 2), "REPEAT", True),
                               np.eye(3)[np.arange(7) % 3].repeat(3, 0))


@pytest.mark.parametrize("broken", ["a.png", "a.mtl", "a.obj"])
def test_all_files_or_none(broken, tmp_path, monkeypatch):
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    (tmp_path / f"{broken}.part").mkdir()  # that file cannot be written
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OSError):
        nr.save_obj(tmp_path / "a.obj", vertices, faces, np.zeros((12, 2, 2, 2, 3)))
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("textures", [np.zeros((11, 2, 2, 2, 3)), np.zeros((12, 2, 2, 3)),
                                      np.zeros((12, 2, 3, 2, 3)), np.zeros((12, 2, 2, 2, 4)),
                                      np.zeros((12, 0, 0, 0, 3)), np.zeros((12, 2, 2, 2, 3), int),
                                      np.full((12, 1, 1, 1, 3), np.nan), "red"])
def test_wrong_textures_are_not_saved(textures, tmp_path):
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="textures.*shape"):
        nr.save_obj(tmp_path / "a.obj", vertices, faces, textures)
    for name in ("a\nb.obj", "a\\b.obj", "a\udcff.obj", "a .obj"):
        with pytest.raises(ValueError, match="filename"):
            nr.save_obj(tmp_path / name, vertices, faces, np.zeros((12, 1, 1, 1, 3)))
    with pytest.raises(ValueError, match="png"):
        nr.save_obj(tmp_path / "a.png", vertices, faces, np.zeros((12, 1, 1, 1, 3)))
    assert not list(tmp_path.iterdir())
