"""Mesh files of other programs, read by make_dataset's reader. OBJ is in test_obj_of_people.py."""
import json
import re

import numpy as np
import pytest
import trimesh
from errors import InputError
from readers.meshes import read_mesh
from solids import box
from test_obj_of_people import L, area


def extents(path):
    vertices, faces, _ = read_mesh(str(path))
    return np.ptp(vertices[faces].reshape(-1, 3), axis=0)


def test_three_boxes_with_relative_indices_stand_in_three_places(tmp_path):
    text = ""
    for x in (0, 2, 4):
        vertices, faces = box((x, 0, 0), (x + 1, 1, 1))
        text += "".join("v %g %g %g\n" % tuple(v) for v in vertices)
        text += "".join("f %d %d %d\n" % tuple(f - 8) for f in faces)
    (tmp_path / "a.obj").write_text(text)
    assert extents(tmp_path / "a.obj").tolist() == [5, 1, 1]


@pytest.mark.parametrize("kind", ["obj", "off", "ply"])
@pytest.mark.parametrize("first", range(6))
def test_concave_polygons_keep_their_area(kind, first, tmp_path):
    corners = np.roll(L, -first, 0)
    lines = "".join("%g %g 0\n" % tuple(p) for p in [*corners, (0, 0), (1, 0), (0, -1)])
    path = tmp_path / f"a.{kind}"
    path.write_text({
        "obj": re.sub("(?m)^(?=.)", "v ", lines) + "f 1 2 3 4 5 6\nf 7 8 9\n",
        "off": "OFF\n9 2 0\n" + lines + "6 0 1 2 3 4 5\n3 6 7 8\n",
        "ply": "ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nproperty float y\nproperty float z\n"
               "element face 2\nproperty list uchar int vertex_indices\nend_header\n" + lines
               + "6 0 1 2 3 4 5\n3 6 7 8\n"}[kind])
    assert area(*read_mesh(str(path))[:2]) == pytest.approx(3.5)


def test_colours_of_vertices_become_those_of_corners(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 .5\nv 1 1 0\nf 1 2 3\nf 2 3 4\n")
    colours = read_mesh(str(tmp_path / "a.obj"))[2].colours
    np.testing.assert_allclose(colours, [[[1, 0, 0], [0, 1, 0], [0, 0, .5]], [[.7] * 3] * 3], atol=1e-6)


# ---- glTF -------------------------------------------------------------------------------------------------------


def gltf(folder, change, kind):
    """A glTF scene of two boxes, changed by `change`."""
    scene = trimesh.Scene([trimesh.creation.box((1, 1, 1)), trimesh.creation.box((3, 1, 1))])
    parts = trimesh.exchange.gltf.export_gltf(scene)
    tree = json.loads(parts.pop("model.gltf"))
    change(tree)
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    text = json.dumps(tree).encode()
    if kind == "glb":
        text += b" " * (-len(text) % 4)
        text = b"glTF" + np.array([2, 20 + len(text), len(text)], "<u4").tobytes() + b"JSON" + text
    path = folder / f"a.{kind}"
    path.write_bytes(text)
    return path


def compress(name, required=True, primitives=slice(None)):
    def change(tree):
        for mesh in tree["meshes"][primitives]:
            for primitive in mesh["primitives"]:
                primitive["extensions"] = {name: {"bufferView": 0}}
                for accessor in [*primitive["attributes"].values(), primitive["indices"]]:
                    tree["accessors"][accessor].pop("bufferView", None)
        tree["extensionsUsed"] = [name]
        if required:
            tree["extensionsRequired"] = [name]
    return change


@pytest.mark.parametrize("kind", ["glb", "gltf"])
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("primitives", [slice(None), slice(1), slice(1, 2)])
def test_compressed_geometry_is_refused(kind, required, primitives, tmp_path):
    path = gltf(tmp_path, compress("KHR_draco_mesh_compression", required, primitives), kind)
    with pytest.raises(InputError, match=f"{path} needs the glTF extension KHR_draco_mesh_compression, which this "
                                         "program does not read; export it without compression"):
        read_mesh(str(path))


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "EXT_mesh_gpu_instancing", "VENDOR_shape"])
def test_what_a_file_requires_is_read_or_refused(name, tmp_path):
    path = gltf(tmp_path, lambda tree: tree.update(extensionsRequired=[name]), "glb")
    with pytest.raises(InputError, match=f"needs the glTF extension {name}, .* export it without"):
        read_mesh(str(path))


@pytest.mark.parametrize("name", ["KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization"])
def test_extensions_that_do_not_change_a_shape_are_accepted(name, tmp_path):
    path = gltf(tmp_path, lambda tree: tree.update(extensionsRequired=[name]), "glb")
    assert extents(path).tolist() == [3, 1, 1]


def test_positions_that_are_not_there_or_scaled_are_refused(tmp_path):
    def without(tree):
        tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]].pop("bufferView")

    def scaled(tree):
        tree["accessors"][tree["meshes"][1]["primitives"][0]["attributes"]["POSITION"]]["normalized"] = True
    def sparse(tree):
        tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]["sparse"] = {"count": 1}

    def fans(tree):
        tree["meshes"][0]["primitives"][0]["mode"] = 6
    for change, said in ((without, "positions are not in the file"), (scaled, "export it without quantization"),
                         (sparse, "in sparse accessors"), (fans, "triangle fans .mode 6.")):
        with pytest.raises(InputError, match=f"a.glb .*{said}"):
            read_mesh(str(gltf(tmp_path, change, "glb")))
