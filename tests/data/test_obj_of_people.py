"""OBJ and MTL files of other programs, read by `nr.load_obj` and by make_dataset's reader."""
import sys
import warnings

import neural_renderer as nr
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neural_renderer import polygons, wavefront
from PIL import Image

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
L = np.array([[2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 0]], float)  # area 3, one corner reflex


def load(folder, obj, mtl=None, **options):
    for name, content in (("a.obj", obj), ("a.mtl", mtl)):
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return nr.load_obj(folder / "a.obj", normalization=False, **options)


def colours(folder, obj, mtl=None, **options):
    return load(folder, obj, mtl, load_texture=True, texture_size=1, **options)[2].reshape(-1, 3).tolist()


def area(vertices, faces):
    a, b, c = np.asarray(vertices, float)[np.asarray(faces)].swapaxes(0, 1)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


# ---- bytes and lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [
    lambda text: b"\xef\xbb\xbf" + text, lambda text: b"\xef\xbb\xbf \xef\xbb\xbf" + text,
    lambda text: text.replace(b"\n", b"\n\xef\xbb\xbf"), lambda text: text.decode().encode("utf-16"),
    lambda text: text.decode().encode("utf-16-be").join([b"\xfe\xff", b""]),
    lambda text: text.replace(b"\n", b"\r\n"), lambda text: text.replace(b"\n", b"\r"),
    lambda text: text.rstrip(b"\n"), lambda text: text.replace(b" ", b"\t  "),
    lambda text: text.replace(b" 3\n", b" \\\n3\n"), lambda text: text.replace(b" 3\n", b" \\\r\n3\r\n"),
    lambda text: text.replace(b"\n", b" # said\n"), lambda text: text.replace(b"\n", b"# said\n"),
    lambda text: b"# C:\\models\\\n" + text])
@pytest.mark.parametrize("which", ["obj", "mtl"])
def test_forms_that_say_the_same(form, which, tmp_path):
    obj, mtl = ("mtllib a.mtl\n" + SQUARE + "usemtl a\nf 1 2 3\nf 1 3 4\n").encode(), b"newmtl a\nKd 1 0 0\n"
    plain = load(tmp_path, obj, mtl, load_texture=True, texture_size=1)
    if which == "obj":
        obj = form(obj).replace(b"a.mtl# said", b"a.mtl # said").replace(b"usemtl a# said", b"usemtl a # said")
    else:
        mtl = form(mtl).replace(b"newmtl a# said", b"newmtl a # said")
    got = load(tmp_path, obj, mtl, load_texture=True, texture_size=1)
    assert all(torch.equal(a, b) for a, b in zip(got, plain))
    assert got[2].reshape(2, 3).tolist() == [[1, 0, 0]] * 2


def test_names_are_bytes(tmp_path):
    """Latin-1 names work, even if the OBJ, the MTL and the disk use different encodings for a picture's name."""
    obj = "mtllib a.mtl\n" + SQUARE + "usemtl R\xe4der\nf 1 2 3\nusemtl R\xf6der\nf 1 3 4\n"
    mtl = "newmtl R\xe4der\nKd 1 0 0\nnewmtl R\xf6der\nKd 0 0 1\n"
    for encoding in ("latin-1", "utf-8"):
        assert colours(tmp_path, obj.encode(encoding), mtl.encode(encoding)) == [[1, 0, 0], [0, 0, 1]]
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "T\xfcr.PNG")
    obj = "mtllib a.mtl\n" + SQUARE + "vt 0 0\nf 1/1 2/1 3/1\n"
    assert colours(tmp_path, obj, "newmtl a\nmap_Kd t\xfcr.png\n".encode("latin-1")) == [[0, 1, 0]]


def test_a_letter_that_ends_in_the_byte_of_a_backslash_joins_no_lines(tmp_path):
    obj = "mtllib a.mtl\n" + SQUARE + "usemtl \u8868\nf 1 2 3\nusemtl \u5341\nf 1 3 4\n"
    mtl = "newmtl \u8868\nKd 1 0 0\nnewmtl \u5341\nKd 0 0 1\n"
    assert "\u8868".encode("shift_jis").endswith(b"\\")
    assert colours(tmp_path, obj.encode("shift_jis"), mtl.encode("shift_jis")) == [[1, 0, 0], [0, 0, 1]]


def test_a_library_without_materials_is_told(tmp_path):
    with pytest.warns(UserWarning, match="a.mtl has no materials .newmtl.: the faces of .*a.obj stay grey"):
        assert colours(tmp_path, "mtllib a.mtl\n" + SQUARE + "f 1 2 3\n", "# nothing\n") == [[.5] * 3]


def test_quoted_names_of_pictures(tmp_path):
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "a b.png")
    obj = "mtllib a.mtl\n" + SQUARE + "vt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    assert colours(tmp_path, obj, 'newmtl a\nmap_Kd "a b.png"\n') == [[0, 1, 0]]


def test_a_name_may_hold_what_looks_like_a_comment(tmp_path):
    obj = "mtllib a.mtl\n" + SQUARE + "".join(f"usemtl {n}\nf 1 2 3\n" for n in ("M #1", "M #2", "b # x", "#fff"))
    mtl = "newmtl M #1\nKd 1 0 0\nnewmtl M #2\nKd 0 1 0\nnewmtl b\nKd 0 0 1\nnewmtl #fff\nKd 1 1 1\n"
    assert colours(tmp_path, obj, mtl) == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "wood #1.png")
    obj = "mtllib a.mtl # library\n" + SQUARE + "vt 0 0\nusemtl a\nf 1/1 2/1 3/1 # lower\n"
    for picture in ("wood #1.png", "wood #1.png # x"):
        assert colours(tmp_path, obj, f"newmtl a # first\nKd 1 1 1 # white\nmap_Kd {picture}\n") == [[1, 0, 0]]


def test_relative_indices_count_from_their_own_place(tmp_path):
    from solids import box
    text = ""
    for x in (0, 2, 4):
        vertices, faces = box((x, 0, 0), (x + 1, 1, 1))
        text += "".join("v %g %g %g\n" % tuple(v) for v in vertices)
        text += "".join("f %d %d %d\n" % tuple(f - 8) for f in faces)
    vertices, faces = load(tmp_path, text)
    used = vertices[faces.long()].reshape(-1, 3)
    assert (used.amax(0) - used.amin(0)).tolist() == [5, 1, 1] and faces.unique().tolist() == list(range(24))


@pytest.mark.parametrize("block", [40, 100, 1000])
def test_blocks_of_any_size_say_the_same(block, tmp_path, monkeypatch):
    """Relative indices, materials and polygons continue from one block to the next."""
    text = "".join(f"v {k} {k * k % 7} 1{' .5 .25 1' if k > 9 else ''}\nvt .{k} 0\nusemtl m{k % 3}\n" + (
        f"f -1/-1 -2/-2 -3/-3{' -4/-4' if k % 2 else ''}\n" if k > 4 else "") for k in range(40))
    (tmp_path / "a.obj").write_text(text)
    whole = wavefront.read_obj(tmp_path / "a.obj")
    monkeypatch.setattr(wavefront, "BLOCK", block)
    for name in ("at once", "by lines"):
        if name == "by lines":
            monkeypatch.setattr(wavefront._Reader, "_read_at_once", lambda self, block: False)
        parts = wavefront.read_obj(tmp_path / "a.obj")
        for key in ("vertices", "colours", "faces", "uv", "uv_faces", "materials"):
            np.testing.assert_array_equal(getattr(parts, key), getattr(whole, key))
        assert parts.names == whole.names == [b"m0", b"m1", b"m2"]
    assert len(whole.faces) > 40 and np.isnan(whole.colours[:10]).all() and not np.isnan(whole.colours[10:]).any()


WORDS = st.sampled_from(["v", "vt", "f", "usemtl", "g", "\nv 1 2 3\n", "\nf 1 2 3\n", "\nf -1 -2 -3 -4\n", "-1", "0",
                         "1", "2.5", "1/1", "2//", "1/2/3", "1//2", "/", "nan", "-1.#IND00", "1e400", "1_0", "#", "\\\n",
                         "\n", "\n", "\t", "\r\n", "\x0b", "\0", "\xe4"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, max_size=30))
def test_blocks_at_once_and_line_by_line_read_the_same(words, tmp_path):
    (tmp_path / "a.obj").write_bytes((SQUARE + "vt 0 1\nvt 1 1\nf 1 2 3\n" + " ".join(words)).encode("latin-1"))
    results, at_once = [], wavefront._Reader._read_at_once
    for reader in (at_once, lambda self, block: False):
        wavefront._Reader._read_at_once = reader
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                read = wavefront.read_obj(tmp_path / "a.obj")
            results.append([repr(vars(read)), *(a.tobytes() for a in (read.vertices, read.faces, read.uv_faces))])
        except ValueError as error:
            assert "a.obj" in str(error)
            results.append(str(error))
        finally:
            wavefront._Reader._read_at_once = at_once
    assert results[0] == results[1]


# ---- polygons ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("turned", [False, True])
def test_polygons_that_are_not_convex_keep_their_area(first, turned, tmp_path):
    random = np.random.default_rng(first)
    frame = np.linalg.qr(random.normal(size=(3, 3)))[0]
    corners = np.roll(L, -first, 0)[::-1 if turned else 1]
    points = np.c_[corners, np.zeros(6)] @ frame + 5
    text = "".join("v %r %r %r\n" % tuple(map(float, p)) for p in points) + "f 1 2 3 4 5 6\n"
    vertices, faces = load(tmp_path, text)
    assert area(vertices, faces) == pytest.approx(3, abs=1e-5)
    a, b, c = vertices.double().numpy()[faces].swapaxes(0, 1)
    normal = np.cross(b - a, c - a).sum(0) / 2
    np.testing.assert_allclose(normal, frame[2] * np.linalg.det(np.r_[frame[:2], frame[2:]]) * (
        -3 if turned else 3) * np.linalg.det(frame), atol=1e-4)


def test_polygons_among_triangles_keep_their_order_and_materials(tmp_path):
    obj = ("mtllib a.mtl\nvt .5 .5\n" + "".join("v %g %g 0\n" % tuple(p) for p in L) + "usemtl a\nf 1 2 3\nusemtl b\n"
           "f 1/1 2/1 3/1 4/1 5/1 6/1\nusemtl c\nf 1 2 3 4\nf 4 5 6\n")
    got = colours(tmp_path, obj, "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\nnewmtl c\nKd 0 0 1\n")
    assert got == [[1, 0, 0]] + [[0, 1, 0]] * 4 + [[0, 0, 1]] * 3
    read = wavefront.read_obj(tmp_path / "a.obj")
    assert (read.uv_faces == np.array([[-1], [0], [0], [0], [0], [-1], [-1], [-1]])).all()


def test_random_stars_are_covered_once():
    """Star-shaped polygons with known area, and convex polygons, which stay fans."""
    random = np.random.default_rng(0)
    for count in (4, 5, 9, 30):
        angles = np.sort(random.uniform(0, 2 * np.pi, count))
        angles = np.arange(count) * 2 * np.pi / count + random.uniform(0, 1, count) / count
        points = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1) * random.uniform(.2, 1, (count, 1))
        x, y = points[:, 0], points[:, 1]
        expected = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
        places, owner = polygons.split(points, np.arange(count), [count])
        a, b, c = points[places].swapaxes(0, 1)
        signed = np.cross(b - a, c - a)[:, 2] / 2
        assert signed.sum() == pytest.approx(expected) and (signed > -1e-12).all() and not owner.any()
        ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
        assert polygons.split(ring, np.arange(count), [count])[0].tolist() == [
            [0, k, k + 1] for k in range(1, count - 1)]


def test_the_splitting_library_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mapbox_earcut", None)
    assert len(load(tmp_path, SQUARE + "f 1 2 3 4\n")[1]) == 2
    with pytest.raises(ImportError, match="pip install mapbox_earcut"):
        load(tmp_path, "".join("v %g %g 0\n" % tuple(p) for p in L) + "f 1 2 3 4 5 6\n")


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_map_coordinates_are_centred_before_they_are_rounded(tmp_path):
    from solids import icosphere
    vertices, faces = icosphere(2, 5.0)
    for name, shift in (("here", 0), ("there", 4_649_776)):
        text = "".join("v %.9f %.9f %.9f\n" % (v[0] + shift, v[1] + shift, v[2]) for v in vertices)
        (tmp_path / f"{name}.obj").write_text(text + "".join("f %d %d %d\n" % tuple(f) for f in faces + 1))
    here, there = (nr.load_obj(tmp_path / f"{name}.obj")[0] for name in ("here", "there"))
    assert (here - there).abs().max() < 1e-6 and here.abs().max() == 1


@pytest.mark.parametrize("bad", ["nan nan nan", "1e999 0 0", "-1.#IND00 1.#QNAN0 0", "-nan(ind) 0 0"])
def test_vertices_that_are_not_finite_matter_where_a_face_uses_them(bad, tmp_path):
    vertices, faces = load(tmp_path, SQUARE + f"v {bad}\nf 1 2 3\n")
    assert vertices[4].tolist() == [0, 0, 0] and nr.load_obj(tmp_path / "a.obj")[0].abs().max() == 1
    with pytest.raises(ValueError, match="a.obj, line 5: cannot read 'v .*a vertex of a face needs 3 finite"):
        load(tmp_path, SQUARE + f"v {bad}\nf 1 2 3\nf 1 2 5\n")
    with pytest.raises(ValueError, match="too large for float32"):
        load(tmp_path, SQUARE + "v 1e39 0 0\nf 1 2 5\n")


@pytest.mark.parametrize("bad", ["nan nan", "1.#QNAN 0", "1e999 0", "1e300 2"])
def test_faces_with_texture_coordinates_that_are_not_finite_get_the_colour_of_their_material(bad, tmp_path):
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "a.png")
    obj = "mtllib a.mtl\n" + SQUARE + f"vt 0 0\nvt {bad}\nusemtl a\nf 1/1 2/1 3/1\nf 1/1 3/2 4/1\n"
    with pytest.warns(UserWarning, match=r"a.obj: texture coordinates \(vt\) of 1 faces are not finite") as told:
        assert colours(tmp_path, obj, "newmtl a\nKd 1 0 0\nmap_Kd a.png\n") == [[0, 1, 0], [1, 0, 0]]
    assert len(told) == 1


def test_faces_of_two_corners_are_left_out_and_told(tmp_path):
    with pytest.warns(UserWarning, match="a.obj, line 5 and 2 more: a face needs three corners; left out") as told:
        vertices, faces = load(tmp_path, SQUARE + "f 1 2\nf 1 2 3\nf 1\nf\nf 1 3 4\n")
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]] and len(told) == 1


# ---- materials --------------------------------------------------------------------------------------------------


def test_the_only_material_is_taken_where_none_is_named(tmp_path):
    assert colours(tmp_path, "mtllib a.mtl\n" + SQUARE + "f 1 2 3\n", "newmtl a\nKd 1 0 0\n") == [[1, 0, 0]]
    with pytest.warns(UserWarning, match="1 faces before the first usemtl, and its library has 2 materials"):
        got = colours(tmp_path, "mtllib a.mtl\n" + SQUARE + "f 1 2 3\nusemtl b\nf 1 2 3\n",
                      "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n")
    assert got == [[.5] * 3, [0, 1, 0]]


@pytest.mark.parametrize("options", ["-clamp on", "-blendu off -blendv on", "-bm 0.5", "-boost 2", "-texres 512",
                                     "-imfchan r", "-type sphere", "-t 0 0 0", "-cc on", "-S 1 1 1 -O 0 0 0",
                                     "-mm 0 1", "-o 0", "-s 1 -bm 1.0"])
def test_options_of_pictures_are_read(options, tmp_path):
    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "a b.png")
    obj = "mtllib a.mtl\n" + SQUARE + "vt 0 0\nusemtl a\nf 1/1 2/1 3/1\n"
    assert colours(tmp_path, obj, f"newmtl a\nmap_Kd {options} a b.png\n") == [[0, 1, 0]]


def test_options_that_change_what_is_seen_do(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(tmp_path / "a.png")
    obj = "mtllib a.mtl\n" + SQUARE + "vt 1.25 0.5\nusemtl a\nf 1/1 2/1 3/1\n"

    def seen(options, **more):
        return colours(tmp_path, obj, f"newmtl a\nmap_Kd {options} a.png\n", **more)[0]
    assert seen("") == [1, 0, 0] and seen("-clamp on") == [0, 0, 1] and seen("-clamp off") == [1, 0, 0]
    assert seen("", texture_wrapping="CLAMP_TO_EDGE") == [0, 0, 1]
    assert seen("-mm 0.25 0.5") == [.75, .25, .25] and seen("-mm 0 2") == [1, 0, 0]
    assert seen("-o 0.5 0 0") == pytest.approx([0, 0, 1])


def test_colours_beyond_one_are_cut_off(tmp_path):
    obj = "mtllib a.mtl\n" + SQUARE + "usemtl a\nf 1 2 3\n"
    assert colours(tmp_path, obj, "newmtl a\nKd 1.5 -0.25 0.5\n") == [[1, 0, .5]]


# ---- colours of vertices ----------------------------------------------------------------------------------------

PAINTED = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 0.5 1\nf 1 2 3\n"


def test_colours_of_vertices(tmp_path):
    vertices, faces, got = load(tmp_path, PAINTED, load_texture=True)
    assert got.dtype == torch.float32 and got.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, .5]]
    nr.save_obj(tmp_path / "b.obj", vertices, faces, got)
    again = nr.load_obj(tmp_path / "b.obj", normalization=False, load_texture=True)
    assert all(torch.equal(a, b) for a, b in zip(again, (vertices, faces, got)))
    with pytest.warns(UserWarning, match="colours of vertices exceed 1, so they are divided by 255"):
        hundreds = load(tmp_path, PAINTED.replace(" 1 0 0\n", " 255 0 0\n", 1), load_texture=True)[2]
    assert hundreds[0].tolist() == [1, 0, 0]
    with pytest.warns(UserWarning, match="1 vertices have no colour and stay grey"):
        some = load(tmp_path, PAINTED.replace(" 1 0 0\n", "\n", 1), load_texture=True)[2]
    assert some.tolist() == [[.5] * 3, [0, 1, 0], [0, 0, .5]]


def test_colours_of_vertices_beside_materials(tmp_path):
    obj, mtl = "mtllib a.mtl\nusemtl a\n" + PAINTED, "newmtl a\nKd 0 1 1\n"
    assert colours(tmp_path, obj, mtl) == [[0, 1, 1]]
    assert load(tmp_path, obj, mtl, load_texture=True, vertex_colors=True)[2].shape == (3, 3)
    with pytest.raises(ValueError, match="no colours of vertices"):
        load(tmp_path, SQUARE + "f 1 2 3\n", load_texture=True, vertex_colors=True)
    with pytest.raises(ValueError, match="textures of vertices must be finite floats of shape"):
        nr.save_obj(tmp_path / "c.obj", np.zeros((3, 3)), np.array([[0, 1, 2]]), np.zeros((2, 3)))


def test_the_device_can_be_given(tmp_path):
    assert load(tmp_path, PAINTED, device="meta")[0].device.type == "meta"
    assert load(tmp_path, PAINTED)[0].device.type == ("cuda" if torch.cuda.is_available() else "cpu")
