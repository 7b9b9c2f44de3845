"""PLY, OFF and STL files of other programs, read by make_dataset's reader."""
import struct
import warnings

import numpy as np
import pytest
from errors import InputError
from PIL import Image
from readers.meshes import read_mesh
from test_obj_of_people import area

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
ARROW = np.array([[0, 0, 0], [2, 1, 0], [0, 2, 0], [.5, 1, 0]])  # concave at the last corner, area 1.5
TRIANGLES = [(0, 1, 2), (0, 2, 3)]
LETTERS = {"char": "b", "uint8": "B", "short": "h", "ushort": "H", "int": "i", "uint32": "I"}


def ply(vertices=SQUARE, faces=TRIANGLES, form="ascii", count="uchar", index="int", real="float", more=""):
    head = (f"ply\nformat {form} 1.0\n{more}element vertex {len(vertices)}\nproperty {real} x\nproperty {real} y\n"
            f"property {real} z\nelement face {len(faces)}\nproperty list {count} {index} vertex_indices\nend_header\n")
    if form == "ascii":
        rows = [*vertices, *((len(face), *face) for face in faces)]
        return (head + "".join(" ".join(repr(float(x)) if k < len(vertices) else str(x) for x in row) + "\n"
                               for k, row in enumerate(rows))).encode("latin-1")
    order = "<" if "little" in form else ">"
    content = np.asarray(vertices).astype(order + ("f8" if real == "double" else "f4")).tobytes()
    for face in faces:
        content += struct.pack(order + LETTERS.get(count, "B"), len(face))
        content += struct.pack(f"{order}{len(face)}{LETTERS[index]}", *face)
    return head.encode("latin-1") + content


def read(folder, content, kind="ply"):
    (folder / f"a.{kind}").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_mesh(str(folder / f"a.{kind}"))


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian"])
def test_binary_ply_with_numbers_of_any_width(form, tmp_path):
    for count in LETTERS:
        for index in LETTERS:
            vertices, faces, _ = read(tmp_path, ply(form=form, count=count, index=index, real="double"))
            assert np.array_equal(vertices, SQUARE) and faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("first", range(4))
def test_polygons_of_ply(form, first, tmp_path):
    """Concave quads alone, and among triangles and faces of two corners."""
    corners, quad = np.roll(ARROW, -first, 0), [(0, 1, 2, 3)]
    assert area(*read(tmp_path, ply(corners, quad, form))[:2]) == pytest.approx(1.5)
    mixed = ply(np.concatenate([corners, SQUARE + 9]), [(4, 5, 6), *quad, (4, 5), (4, 6, 7)], form)
    with pytest.warns(UserWarning, match="a.ply: 1 faces of fewer than three corners are left out"):
        vertices, faces, _ = read(tmp_path, mixed)
    assert area(vertices, faces) == pytest.approx(2.5) and faces[[0, -1]].tolist() == [[4, 5, 6], [4, 6, 7]]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_headers_of_ply(newline, form, tmp_path):
    head, end, body = ply(form=form, more="comment R\xe4der\nobj_info \xfc\n").partition(b"end_header\n")
    head = (b"\xef\xbb\xbf" + head + end).replace(b"\n", newline.encode())
    vertices, faces, _ = read(tmp_path, head + (body.replace(b"\n", newline.encode()) if form == "ascii" else body))
    assert np.array_equal(vertices, SQUARE) and len(faces) == 2


def test_map_coordinates_in_the_text_of_a_ply_keep_their_digits(tmp_path):
    there = np.array(SQUARE + 4_649_776.123)
    assert np.array_equal(read(tmp_path, ply(there))[0], there)


@pytest.mark.parametrize("change, said", [
    (lambda text: text + b"3 0 1 2\n", "4 numbers follow what its header announces"),
    (lambda text: text[:-4], "it ends before all that its header announces"),
    (lambda text: text.replace(b"3 0 1 2", b"3 0 1 x"), "a word that is no number"),
    (lambda text: text.replace(b"3 0 1 2", b"3 0 1 1.5"), "vertex_indices has the value 1.5, which its type cannot"),
    (lambda text: text.replace(b"3 0 1 2", b"3 0 1 9"), "a face names a vertex from 0 to 9 of 4"),
    (lambda text: text.replace(b"3 0 1 2", b"-3 0 1 2"), "a list of -3 values"),
    (lambda text: text.replace(b"vertex_indices", b"tristrips"), "an element face with vertex_indices"),
    (lambda text: text.replace(b"property float x", b"property half x"), "cannot read the line 'property half x'"),
    (lambda text: text.replace(b"end_header", b"end"), "its header has no end"),
    (lambda text: b"PLX" + text[3:], "does not begin with ply")])
def test_damaged_ply_is_refused(change, said, tmp_path):
    with pytest.raises(InputError, match=f"a.ply is not a mesh that can be read: .*{said}"):
        read(tmp_path, change(ply()))


ROWS = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
COLOURED = "0 0 0 255 0 0\n1 0 0 255 0 0\n1 1 0 255 0 0\n0 1 0 255 0 0\n3 0 1 2\n3 0 2 3\n"


@pytest.mark.parametrize("text", [
    "\ufeffOFF\n4 2 0\n" + ROWS, "OFF4 2 0\n" + ROWS, "OFF 4 2 0\n" + ROWS, "off\n4 2 0\n" + ROWS, "OFF\n4 2\n" + ROWS,
    "# R\xe4der\n\nOFF # x\n4 2 0 # counts\n" + ROWS.replace("\n", " # c\n#\n\n"), ("OFF\n4 2 0\n" + ROWS).encode("utf-16"),
    ("OFF\n4 2 0\n" + ROWS).replace("\n", "\r"), "coff4 2 0\n" + COLOURED])
def test_forms_of_off(text, tmp_path):
    vertices, faces, look = read(tmp_path, text if isinstance(text, bytes) else text.encode("utf-8"), "off")
    assert np.array_equal(vertices, SQUARE) and faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert (look is None) == (text[:4] != "coff") and (look is None or (look.colours == [1, 0, 0]).all())


def test_what_an_off_leaves_out_is_told(tmp_path):
    with pytest.warns(UserWarning, match="a.off, line 9: a face needs three corners; left out"):
        assert len(read(tmp_path, "OFF\n4 3 0\n" + ROWS + "2 0 1\n", "off")[1]) == 2
    with pytest.warns(UserWarning, match="a.off, line 8: lines after 4 vertices and 1 faces are ignored"):
        assert len(read(tmp_path, "OFF\n4 1 0\n" + ROWS, "off")[1]) == 1


@pytest.mark.parametrize("old, new, said", [
    ("4 2 0", "4", "line 2: expected the numbers of vertices, faces and edges, got '4'"),
    ("1 1 0", "1,1,0", "line 5: expected a vertex of three numbers, got '1,1,0'"),
    ("3 0 1 2", "3 0 1.5 2", "line 7: expected a face: the number of its corners, and their indices"),
    ("3 0 1 2", "-3 0 1 2", "line 7: expected a face"), ("4 2 0", "4 9 0", "4 lines of 4 vertices and 2 lines of 9"),
    ("4 2 0", "-4 2 0", "-4 vertices and 2 faces"), ("OFF", "nOFF", "expected OFF, or COFF and the like")])
def test_damaged_off_is_refused(old, new, said, tmp_path):
    with pytest.raises(InputError, match=f"a.off is not a mesh that can be read: .*{said}"):
        read(tmp_path, ("OFF\n4 2 0\n" + ROWS).replace(old, new), "off")


def test_an_stl_of_another_length_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected facets in text up to endsolid, or 80 bytes, .* it has 130 bytes"):
        read(tmp_path, b"\0" * 80 + struct.pack("<I", 1) + b"\0" * 46, "stl")


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_faces_that_lose_their_picture_are_told(kind, tmp_path):
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.mtl").write_text("newmtl a\nKd 1 0 0\nmap_Kd a.png\n")
    content = {"obj": "mtllib a.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt nan 1\n"
                      "f 1/1 2/2 3/2\nf 1/1 3/2 4/3\n",
               "ply": "ply\nformat ascii 1.0\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\nproperty "
                      "float y\nproperty float z\nproperty float s\nproperty float t\nelement face 2\nproperty list uchar "
                      "int vertex_indices\nend_header\n0 0 0 0 0\n1 0 0 1 0\n1 1 0 1 0\n0 1 0 nan 1\n3 0 1 2\n3 0 2 3\n"}
    (tmp_path / f"a.{kind}").write_text(content[kind])
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look = read_mesh(str(tmp_path / f"a.{kind}"), report=told.append)[2]
    assert look.picture.tolist() == [0, -1]
    assert len(told) == 1 and "of 1 faces are not finite" in told[0]
