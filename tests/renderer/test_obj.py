"""Reading and writing Wavefront OBJ files."""
import re

import neural_renderer as nr
import numpy as np
import pytest
import torch
from solids import box, icosphere


def written(folder, text):
    path = folder / "mesh.obj"
    path.write_text(text)
    return path


SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def test_geometry_only_is_read(tmp_path):
    path = written(tmp_path, "# comment\nmtllib a.mtl\no thing\n\nv 0 0 0\nv 1 0 0 1 0 0\n"
                             "vt 0 0\nvn 0 0 1\nv\t0  2 0.5e0 \nusemtl b\ns off\nf 1/1/1 2//1 3/1\n")
    vertices, faces = nr.load_obj(path, normalization=False)
    assert vertices.dtype == torch.float32 and faces.dtype == torch.int32
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 2, 0.5]] and faces.tolist() == [[0, 1, 2]]


def test_polygons_become_fans(tmp_path):
    five = SQUARE + "v 0.5 2 0\nf 1 2 3 5 4\n"
    assert nr.load_obj(written(tmp_path, five))[1].tolist() == [[0, 1, 2], [0, 2, 4], [0, 4, 3]]


def test_negative_indices_count_from_the_last_vertex_read(tmp_path):
    text = SQUARE + "f -4 -3 -2\nv 9 9 9\nf -1 -5 2\n"
    assert nr.load_obj(written(tmp_path, text))[1].tolist() == [[0, 1, 2], [4, 0, 1]]


def test_normalization(tmp_path):
    vertices, faces = box((1, 2, 3), (2, 6, 5))
    nr.save_obj(tmp_path / "box.obj", vertices, faces)
    got = nr.load_obj(tmp_path / "box.obj")[0]
    np.testing.assert_allclose(got.amin(0), [-0.25, -1, -0.5], atol=1e-6)
    np.testing.assert_allclose(got.amax(0), [0.25, 1, 0.5], atol=1e-6)
    plain = nr.load_obj(tmp_path / "box.obj", normalization=False)[0]
    np.testing.assert_allclose(plain, vertices, atol=1e-6)


def test_normalization_of_a_single_point(tmp_path):
    vertices, _ = nr.load_obj(written(tmp_path, "v 3 3 3\nv 3 3 3\nv 3 3 3\nf 1 2 3\n"))
    assert vertices.tolist() == [[0, 0, 0]] * 3


@pytest.mark.parametrize("line", ["v 1 2", "v 1 2 x", "v nan 0 0\nf 1 2 5", "v 1e999 0 0\nf 1 5 2", "f 1 2 a",
                                  "f 1 2 0", "f 1 2 -5", "f 1 2 5", "f 1 2 99999999999999999999",
                                  "f 1.5 2 3", "f / 2 3"])
def test_errors_name_file_and_line(line, tmp_path):
    path = written(tmp_path, SQUARE + line + "\nf 1 2 3\n")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*line 5"):
        nr.load_obj(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", SQUARE, "f 1 2 3\n"])
def test_a_mesh_needs_vertices_and_faces(text, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        nr.load_obj(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        nr.load_obj(tmp_path / "absent.obj")


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_round_trip(kind, tmp_path):
    vertices, faces = icosphere(2, 0.7, (0.1, -0.2, 0.3))
    path = tmp_path / "sphere.obj"
    nr.save_obj(path, kind(vertices), kind(faces))
    got, indices = nr.load_obj(path, normalization=False)
    # Eight decimals, then float32.
    np.testing.assert_allclose(got, vertices, rtol=1e-7, atol=1e-8)
    assert np.array_equal(indices, faces)
    assert [p.name for p in tmp_path.iterdir()] == ["sphere.obj"]
    assert f"v {vertices[0, 0]:.8f} {vertices[0, 1]:.8f} {vertices[0, 2]:.8f}\n" in path.read_text()


def test_saving_refuses_wrong_meshes(tmp_path):
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    for bad, name in (((vertices[:, :2], faces), "vertices"), ((vertices, faces[:, :2]), "faces"),
                      ((vertices, faces + 1), "faces"), ((vertices, faces - 1), "faces"),
                      ((vertices[None], faces), "vertices")):
        with pytest.raises(ValueError, match=name):
            nr.save_obj(tmp_path / "bad.obj", *bad)
    assert not list(tmp_path.iterdir())
