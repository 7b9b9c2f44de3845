"""Meshes from strangers: files that they name outside of their folder are not opened."""
import json
import struct
import sys

import pytest
import synthetic
import trimesh
from errors import InputError
from PIL import Image
from test_mesh_folder import bars

OPENED = []  # the files that Python opens
sys.addaudithook(lambda event, arguments: event == "open" and OPENED.append(str(arguments[0])))
TRIANGLE = "usemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n"
OUTSIDE = ("../secret", "../secret.png", "/etc/passwd", "file:///etc/passwd", "..\\\\secret", "link", "{absolute}")


@pytest.fixture
def secret(tmp_path):
    """A folder for meshes, beside files that they must not read; the link `link` leads out of it."""
    folder = tmp_path / "meshes"
    folder.mkdir()
    parts = trimesh.exchange.gltf.export_gltf(trimesh.Scene(bars()))
    (tmp_path / "secret").write_bytes(parts["gltf_buffer_0.bin"])  # would be valid if it were read
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\nmap_Kd secret.png\n")
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


def opened_by(path):
    """(names of the files that reading a mesh opens, error message or None)"""
    OPENED.clear()
    try:
        synthetic.load_mesh(str(path))
        said = None
    except InputError as error:
        said = str(error)
    return [name for name in OPENED if not name.endswith((".py", ".pyc", ".json"))], said


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["obj", "mtl", "ply", "gltf", "gltf picture", "glb"])
def test_a_mesh_reads_nothing_outside_of_its_folder(kind, name, secret):
    name = name.format(absolute=secret.parent / "secret")
    path = secret / f"a.{kind[:4].strip() if kind != 'mtl' else 'obj'}"
    gltf = trimesh.exchange.gltf.export_gltf(trimesh.Scene(bars()))
    if kind in ("obj", "mtl"):
        library = name if kind == "obj" else "a.mtl"
        path.write_text(f"mtllib {library}\n{TRIANGLE}")
        (secret / "a.mtl").write_text(f"newmtl a\nmap_Kd {name}\n")
    elif kind == "ply":
        plain, texture = bars().export(file_type="ply", encoding="ascii"), f"comment TextureFile {name}\n"
        path.write_bytes(plain.replace(b"element vertex", texture.encode() + b"element vertex", 1))
    else:
        scene = json.loads(gltf["model.gltf"])
        if kind == "gltf":
            scene["buffers"][0]["uri"] = name
        else:
            scene |= {"images": [{"uri": name}], "textures": [{"source": 0}],
                      "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]}
            scene["meshes"][0]["primitives"][0]["material"] = 0
        for part, content in gltf.items():
            (secret / part).write_bytes(content)
        text = json.dumps(scene).encode()
        text += b" " * (-len(text) % 4)
        if kind == "glb":  # its buffer beside it
            text = b"glTF" + struct.pack("<4I", 2, 20 + len(text), len(text), 0x4e4f534a) + text
        path.write_bytes(text)
    read, said = opened_by(path)
    inside = {str(path), str(secret / "a.mtl"), *(str(secret / part) for part in gltf)}
    assert str(path) in read and set(read) <= inside, said
    assert (said is None) == (kind != "gltf"), said
    if said:
        assert said.startswith(f"{path} is not a mesh that can be read: ")


def test_the_files_named_are_read_where_nothing_forbids_it(secret):
    """Control of the other tests: allowed files are opened, and trimesh's own reader opens materials too."""
    for part, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(bars())).items():
        (secret / part).write_bytes(content)
    read, said = opened_by(secret / "model.gltf")
    assert said is None and read.count(str(secret / "gltf_buffer_0.bin")) == 1
    (secret / "a.obj").write_text(f"mtllib ../secret.mtl\n{TRIANGLE}")
    OPENED.clear()
    trimesh.load_mesh(secret / "a.obj", resolver=trimesh.resolvers.FilePathResolver(secret, allow_anywhere=True))
    assert str(secret.parent / "secret.mtl") in OPENED
