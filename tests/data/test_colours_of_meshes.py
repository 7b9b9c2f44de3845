"""Colours of meshes: the colours in files, and the colours in pictures of them."""
import io

import numpy as np
import pytest
import synthetic
import torch
from coloured import CORNERS, QUAD, SIX, UV, cube, png, write_gltf, write_obj
from datasets import CVPR18, DATASETS
from errors import InputError
from making import cubes, pieces
from making.looks import Look, Picture
from PIL import Image
from readers import writers
from readers.meshes import read_mesh

PLAIN = (0, 1, 0, 1, 0)  # light from everywhere: colours as they are
TRIANGLES = [[0, 1, 2], [0, 2, 3]]


def srgb(linear):
    return [x * 12.92 if x <= .0031308 else 1.055 * x ** (1 / 2.4) - .055 for x in linear]


def linear(colour):
    return [x / 12.92 if x <= .04045 else ((x + .055) / 1.055) ** 2.4 for x in colour]


def png_bytes(pixels):
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def drawn(mesh, views, size=64, lights=PLAIN):
    return writers.draw_rgba(CVPR18, CVPR18.place(mesh[0]), *mesh[1:], torch.tensor(views), size, lights).numpy()


# ---- a cube of six colours, in every format ------------------------------------------------------------------------

def six_obj(folder):
    (folder / "a.mtl").write_text("".join("newmtl %s\nKd %g %g %g\n" % (name, *c) for name, c in SIX.items()))
    return write_obj(folder / "a.obj", *cube(), materials=list(SIX), library="a.mtl")


def six_palette(folder):
    """One picture with six patches of colour, as kits of models often have."""
    png(folder / "patches.png", np.repeat((np.array(list(SIX.values())) * 255)[None], 2, 0).repeat(8, 1))
    (folder / "a.mtl").write_text("newmtl kit\nKd 0 0 0\nmap_Kd patches.png\n")
    vertices, quads = cube()
    uv = np.repeat([[(k + .5) / 6, .5] for k in range(6)], 4, 0)
    return write_obj(folder / "a.obj", vertices[quads].reshape(-1, 3), np.arange(24).reshape(6, 4), uv, ["kit"] * 6,
                     "a.mtl")


def six_vertex_colours(folder):
    vertices, quads = cube()
    coloured = np.concatenate([vertices[quads].reshape(-1, 3), np.repeat(list(SIX.values()), 4, 0)], 1)
    return write_obj(folder / "a.obj", coloured, np.arange(24).reshape(6, 4))


def six_glb(folder):
    """Three meshes with two primitives each; every primitive is one side of the cube."""
    vertices, quads = cube()
    return write_gltf(folder / "a.glb", [
        {"positions": vertices[q], "faces": TRIANGLES, "material": k, "mesh": k // 2}
        for k, q in enumerate(quads)], materials=[
        {"pbrMetallicRoughness": {"baseColorFactor": [*c, 1]}} for c in SIX.values()])


def six_nodes(folder):
    """Six nodes rotate a side to the six places; their meshes differ in their colours of vertices."""
    parts = [{"positions": QUAD + (0, 0, .5), "faces": TRIANGLES, "mesh": k,
              "colour": np.tile(np.array([*c, 1], "<f4"), (4, 1))} for k, c in enumerate(SIX.values())]
    h = .5 ** .5
    turns = [(0, h, 0, h), (0, -h, 0, h), (-h, 0, 0, h), (h, 0, 0, h), (0, 0, 0, 1), (0, 1, 0, 0)]
    return write_gltf(folder / "a.gltf", parts, nodes=[{"mesh": k, "rotation": turn} for k, turn in enumerate(turns)])


def six_ply(folder):
    vertices, quads = cube()
    head = ("ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
            "element face 6\nproperty list uchar int vertex_indices\nproperty uchar red\nproperty uchar green\n"
            "property uchar blue\nend_header\n")
    rows = ["%g %g %g" % tuple(v) for v in vertices]
    rows += [f"4 {' '.join(map(str, q))} {' '.join(str(255 * c) for c in colour)}" for q, colour in
             zip(quads, SIX.values())]
    (folder / "a.ply").write_text(head + "\n".join(rows) + "\n")
    return folder / "a.ply"


def six_binary_ply(folder):
    """A little-endian file; all faces have the same number of corners."""
    vertices, quads = cube()
    head = ("ply\nformat binary_little_endian 1.0\nelement vertex 8\nproperty float x\nproperty float y\n"
            "property float z\nelement face 6\nproperty list uchar int vertex_indices\nproperty float red\n"
            "property float green\nproperty float blue\nend_header\n")
    row = np.dtype([("n", "u1"), ("q", "<i4", 4), ("c", "<f4", 3)])
    rows = np.array([(4, q, c) for q, c in zip(quads, SIX.values())], row)
    (folder / "a.ply").write_bytes(head.encode() + vertices.astype("<f4").tobytes() + rows.tobytes())
    return folder / "a.ply"


def six_off(folder):
    vertices, quads = cube()
    rows = ["%g %g %g" % tuple(v) for v in vertices]
    rows += [f"4 {' '.join(map(str, q))}  {' '.join(str(255 * c) for c in colour)}" for q, colour in
             zip(quads, SIX.values())]
    (folder / "a.off").write_text("OFF # a cube\n8 6 0\n\n" + "\n".join(rows) + "\n")
    return folder / "a.off"


def six_coff(folder):
    vertices, quads = cube()
    rows = ["%g %g %g %g %g %g 1" % (*v, *c) for q, c in zip(quads, SIX.values()) for v in vertices[q]]
    rows += ["4 " + " ".join(map(str, range(4 * k, 4 * k + 4))) for k in range(6)]
    (folder / "a.off").write_text("COFF\n24 6 0\n" + "\n".join(rows) + "\n")
    return folder / "a.off"


FORMS = [six_obj, six_palette, six_vertex_colours, six_glb, six_nodes, six_ply, six_binary_ply, six_off, six_coff]


@pytest.mark.parametrize("form", FORMS)
def test_a_cube_shows_its_six_colours(form, tmp_path):
    path = str(form(tmp_path))
    vertices, faces, look = read_mesh(path)
    normals = np.cross(*(vertices[faces][:, k] - vertices[faces][:, 0] for k in (1, 2)))
    assert len(faces) == len(look) == 12 and (np.einsum("fc,fc->f", normals, vertices[faces].mean(1)) > 0).all()
    for up, seen in (("y", ("right", "left", "top", "front", "back")), ("-y", ("bottom",))):
        mesh = synthetic.load_mesh(path, up)
        shown = drawn(mesh, range(24))
        for name in seen:
            side = list(SIX).index(name)
            middle = np.zeros(3)
            middle[side // 2] = (1 - 2 * (side % 2)) * np.ptp(mesh[0][:, 0].numpy()) / 2
            middle = torch.from_numpy(synthetic.orientation(up) @ middle).float()[None]
            eyes = CVPR18._eyes(torch.arange(24).double())
            placed = CVPR18.place(middle)
            facing = (eyes * (placed / placed.norm())).sum(1) > float(placed.norm()) + .3  # not at a grazing angle
            at = CVPR18.project(placed[None].expand(24, -1, -1), torch.arange(24))[:, 0]
            assert facing.any()
            for view in np.flatnonzero(facing):
                column, row = int((at[view, 0] + 1) * 32), int((1 - at[view, 1]) * 32)
                np.testing.assert_allclose(shown[view, :, row, column], [*SIX[name], 1], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("layout", list(DATASETS))
def test_light_comes_from_above_in_every_layout(layout):
    """The top of a cube shows 0.5 + 0.5 * 0.85 times its colour, with plain colours and with a look."""
    dataset, (vertices, quads) = DATASETS[layout], cube()
    faces = torch.from_numpy(quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3))
    vertices = dataset.place(torch.from_numpy(vertices * .5).float())
    cameras = {"NIPS17": [[30., 30, 2]], "R2N2": [[30., 28, 1.5]], "CVPR18": [1]}.get(layout)
    cameras = dataset.turntable(12)[1:2] if cameras is None else torch.tensor(cameras)
    middle = vertices[quads[2]].mean(0)
    at = dataset.project(middle[None, None], cameras)[0, 0]
    column, row = int((at[0] + 1) * 32), int((1 - at[1]) * 32)
    for colors in (torch.ones(12, 3), Look.plain(np.ones((12, 3)))):
        shown = writers.draw_rgba(dataset, vertices, faces, colors, cameras, 64)[0, :, row, column]
        np.testing.assert_allclose(shown, [.925] * 3 + [1], atol=1e-5)


# ---- pictures -------------------------------------------------------------------------------------------------------

def bilinear(pixels, u, v):
    """Colours in [0, 1] of a picture, clamped to its edge; (0, 0) is its lower left corner."""
    height, width = pixels.shape[:2]
    x, y = np.clip(u * width - .5, 0, width - 1), np.clip((1 - v) * height - .5, 0, height - 1)
    i, j = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    a, b = (x - i)[..., None], (y - j)[..., None]
    rows = (pixels[j, i] * (1 - a) + pixels[j, i + 1] * a, pixels[j + 1, i] * (1 - a) + pixels[j + 1, i + 1] * a)
    return (rows[0] * (1 - b) + rows[1] * b) / 255


def seen_at(view, size, half):
    """(u, v, inside) at every sample of a picture of the quad |x|, |y| < half at z = 0, with 2 x 2 samples per pixel,
    by rays from the eye in the people frame."""
    azimuth, elevation = np.radians(-15 * view), np.radians(30)
    eye = 2.732 * np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation),
                            np.cos(elevation) * np.cos(azimuth)])  # z negated: the dataset's frame is mirrored
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    at = (2 * np.arange(2 * size) + 1 - 2 * size) / (2 * size) * np.tan(np.radians(15))
    rays = forward + at[None, :, None] * right - at[:, None, None] * np.cross(right, forward)
    hit = eye + rays * (-eye[2] / rays[..., 2])[..., None]
    inside = (np.abs(hit[..., :2]) < half).all(-1)
    return (hit[..., 0] + half) / (2 * half), (hit[..., 1] + half) / (2 * half), inside


def quad_obj(folder, pixels=CORNERS, options="-clamp on", faces=((0, 1, 2, 3),)):
    png(folder / "corners.png", pixels)
    (folder / "a.mtl").write_text(f"newmtl a\nKd 0 0 0\nmap_Kd {options} corners.png\n")
    return write_obj(folder / "a.obj", QUAD, faces, UV, ["a"] * len(faces), "a.mtl")


def quad_glb(folder):
    return write_gltf(folder / "a.glb", [{"positions": QUAD, "faces": TRIANGLES, "material": 0,
                                          "uv": (UV * (1, -1) + (0, 1)).astype("<f4")}],
                      images=[png_bytes(CORNERS)], samplers=[{"wrapS": 33071, "wrapT": 33071}],
                      textures=[{"source": 0, "sampler": 0}],
                      materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])


@pytest.mark.parametrize("form", [quad_obj, quad_glb])
@pytest.mark.parametrize("size", [64, 137])
def test_a_quad_of_four_colours_from_both_sides(form, size, tmp_path):
    mesh = synthetic.load_mesh(str(form(tmp_path)))
    views = (0, 2, 11, 12)
    shown = drawn(mesh, views, size)
    assert np.array_equal(shown[:, 3], drawn((*mesh[:2], torch.ones(2, 3)), views, size)[:, 3]), "the same mask"
    for picture, view in zip(shown, views):
        u, v, inside = seen_at(view, size, float(mesh[0].abs().max()))
        expected = (bilinear(CORNERS, u, v) * inside[..., None]).reshape(size, 2, size, 2, 3).mean((1, 3))
        sure = inside.reshape(size, 2, size, 2).mean((1, 3))
        np.testing.assert_allclose(picture[3], sure, atol=.26)
        whole = sure == 1
        assert whole.sum() > size * size / 8
        np.testing.assert_allclose(picture[:3].transpose(1, 2, 0)[whole], expected[whole], atol=.004)


def test_colours_of_vertices_run_evenly(tmp_path):
    """The colours are exact, because they are a linear function on the quad."""
    write_obj(tmp_path / "a.obj", np.concatenate([QUAD, UV, np.zeros((4, 1))], 1), TRIANGLES)
    mesh = synthetic.load_mesh(str(tmp_path / "a.obj"))
    u, v, inside = seen_at(2, 64, float(mesh[0].abs().max()))
    whole = inside.reshape(64, 2, 64, 2).all((1, 3))
    expected = np.stack([u, v, 0 * u], -1).reshape(64, 2, 64, 2, 3).mean((1, 3))
    shown = drawn(mesh, [2])[0, :3].transpose(1, 2, 0)
    np.testing.assert_allclose(shown[whole], expected[whole], atol=2e-5)


def test_a_fine_picture_is_averaged(tmp_path):
    """A chequerboard much finer than pixels is drawn grey, not in its two colours."""
    board = np.repeat(np.indices((512, 512)).sum(0)[..., None] % 2 * 255, 3, 2)
    shown = drawn(synthetic.load_mesh(str(quad_obj(tmp_path, board))), [0])[0]
    assert np.abs(shown[:3, shown[3] == 1] - .5).max() < .02


# ---- how pictures are laid ------------------------------------------------------------------------------------------

def looked(path, u, v):
    """The colour of a face at the texture coordinates of its corner 0, from a file with one triangle."""
    _, _, look = read_mesh(str(path))
    assert look.picture[0] == 0
    return look.pictures[0].at(look.uv[0, :1])[0][0]


PATCH = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) * 5  # all pixels differ


def pixel(u, v, wrap=("REPEAT", "REPEAT")):
    """The pixel at glTF's u and v, with v from the top; only for centres of pixels."""
    place = []
    for x, how in zip((u, v), wrap):
        k = int(np.floor(x * 4))
        if how == "MIRRORED_REPEAT":
            k = k % 8 if k % 8 < 4 else 7 - k % 8
        place.append(min(max(k, 0), 3) if how == "CLAMP_TO_EDGE" else k % 4)
    return PATCH[place[1], place[0]] / 255


@pytest.mark.parametrize("wrap", [("REPEAT", "CLAMP_TO_EDGE"), ("MIRRORED_REPEAT", "REPEAT"),
                                  ("CLAMP_TO_EDGE", "MIRRORED_REPEAT")])
@pytest.mark.parametrize("moved", [{}, {"offset": [.25, .5]}, {"scale": [3, -1]}, {"rotation": np.pi / 2},
                                   {"offset": [.5, .25], "scale": [3, 1], "rotation": -np.pi / 2, "texCoord": 1}])
def test_pictures_of_gltf_are_laid_as_its_samplers_say(wrap, moved, tmp_path):
    codes = {"REPEAT": 10497, "MIRRORED_REPEAT": 33648, "CLAMP_TO_EDGE": 33071}
    for u, v in ((.125, .375), (1.375, -.375), (-1.125, 2.625)):
        uv = np.tile(np.array([[u, v]], "<f4"), (3, 1))
        path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD[:3], "faces": [[0, 1, 2]], "material": 0,
                                                "uv": np.zeros_like(uv) if "texCoord" in moved else uv, "uv1": uv}],
                          images=[png_bytes(PATCH)], samplers=[{"wrapS": codes[wrap[0]], "wrapT": codes[wrap[1]]}],
                          textures=[{"source": 0, "sampler": 0}], materials=[{"pbrMetallicRoughness": {
                              "baseColorTexture": {"index": 0, "extensions": {"KHR_texture_transform": moved}}}}])
        x, y = np.array([u, v]) * moved.get("scale", 1)
        if angle := moved.get("rotation"):  # counter-clockwise as seen, v pointing down
            x, y = (y, -x) if angle > 0 else (-y, x)
        x, y = np.array([x, y]) + moved.get("offset", 0)
        np.testing.assert_allclose(looked(path, u, v), pixel(x, y, wrap), atol=1e-6)


def test_nearest_pixels_and_whole_numbers_of_gltf(tmp_path):
    uv = np.array([[30, 100]] * 3, np.uint8)  # of 255
    path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD[:3], "faces": [[0, 1, 2]], "material": 0, "uv": uv}],
                      images=[{"uri": "patch%20of%20colours.png"}], samplers=[{"magFilter": 9728}],
                      textures=[{"source": 0, "sampler": 0}],
                      materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
    png(tmp_path / "patch of colours.png", PATCH)
    np.testing.assert_allclose(looked(path, 0, 0), pixel(30 / 255, 100 / 255), atol=1e-6)


@pytest.mark.parametrize("options, expected", [
    ("", lambda u, v: pixel(u, 1 - v)), ("-clamp on", lambda u, v: pixel(u, 1 - v, ("CLAMP_TO_EDGE",) * 2)),
    ("-s 3 5 1 -o .25 .5 0", lambda u, v: pixel(3 * u + .25, 1 - (5 * v + .5))),
    ("-mm .5 .25", lambda u, v: .5 + .25 * pixel(u, 1 - v))])
def test_pictures_of_obj_are_laid_as_the_mtl_says(options, expected, tmp_path):
    png(tmp_path / "patch.png", PATCH)
    (tmp_path / "a.mtl").write_text(f"newmtl a\nmap_Kd {options} patch.png\n")
    for u, v in ((.125, .375), (1.375, -.375), (-1.125, 2.625)):
        write_obj(tmp_path / "a.obj", QUAD[:3], [[0, 1, 2]], [[u, v]] * 3, ["a"], "a.mtl")
        np.testing.assert_allclose(looked(tmp_path / "a.obj", u, v), expected(u, v), atol=1e-6)


@pytest.mark.parametrize("where", ["vertices", "corners"])
def test_pictures_of_ply(where, tmp_path):
    png(tmp_path / "a b.png", CORNERS)
    uv = "property float s\nproperty float t\n" if where == "vertices" else ""
    texcoord = "property list uchar float texcoord\n" if where == "corners" else ""
    rows = [" ".join(f"{x:g}" for x in (*p, *(q if uv else ()))) for p, q in zip(QUAD, UV)]
    faces = ["3 " + " ".join(map(str, f)) + (" 6 " + " ".join(f"{x:g}" for x in UV[f].ravel()) if texcoord else "")
             for f in TRIANGLES]
    (tmp_path / "a.ply").write_text(
        f"ply\nformat ascii 1.0\ncomment TextureFile a b.png\nelement vertex 4\nproperty float x\nproperty float y\n"
        f"property float z\n{uv}element face 2\nproperty list uchar int vertex_indices\n{texcoord}end_header\n"
        + "\n".join(rows + faces) + "\n")
    _, faces, look = read_mesh(str(tmp_path / "a.ply"))
    np.testing.assert_allclose(look.uv, UV[faces])
    assert np.array_equal(look.pictures[0].pixels, CORNERS)


def test_colours_of_gltf_are_linear_light_and_multiply(tmp_path):
    factor, own = [.5, .1, 1], [.25, 1, .5]
    path = write_gltf(tmp_path / "a.glb", [
        {"positions": QUAD, "faces": TRIANGLES, "material": 0, "colour": np.tile(np.array(own, "<f4"), (4, 1)),
         "uv": UV.astype("<f4")}, {"positions": QUAD + 1, "faces": TRIANGLES}],
        images=[png_bytes(np.full((1, 1, 3), 51))], textures=[{"source": 0}],
        materials=[{"pbrMetallicRoughness": {"baseColorFactor": [*factor, 1], "baseColorTexture": {"index": 0}}}])
    _, _, look = read_mesh(str(path))
    mine = look.picture == 0
    assert mine.sum() == 2 and np.allclose(look.colours[~mine], .7), "no material: grey"
    np.testing.assert_allclose(look.colours[mine], np.broadcast_to(srgb(own), (2, 3, 3)), atol=1e-6)
    shown = look.pictures[0].at(look.uv[mine][0])[0]
    np.testing.assert_allclose(shown, [srgb(np.array(linear([.2] * 3)) * factor)] * 3, atol=.6 / 255)
    _, _, look = read_mesh(str(write_gltf(tmp_path / "b.glb", [
        {"positions": QUAD, "faces": TRIANGLES, "material": 0, "colour": np.tile(np.array(own, "<f4"), (4, 1))}],
        materials=[{"pbrMetallicRoughness": {"baseColorFactor": [*factor, 1]}}])))
    np.testing.assert_allclose(look.colours[0, 0], srgb(np.array(factor) * own), atol=1e-6)


def test_what_is_not_finite_is_grey(tmp_path):
    colours = np.array([[1, 0, 0], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1]], "<f4")
    uv = np.array([[0, 0], [1, 0], [np.nan, 1], [0, 1]], "<f4")
    path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD, "faces": TRIANGLES, "colour": colours, "uv": uv,
                                            "material": 0}], images=[png_bytes(CORNERS)], textures=[{"source": 0}],
                      materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
    shown = drawn(synthetic.load_mesh(str(path)), [0])
    assert np.isfinite(shown).all() and shown[0, 3].max() == 1


# ---- both faces of a sheet ------------------------------------------------------------------------------------------

SHEETS = {"fans": ([[0, 1, 2], [0, 2, 3]], [[0, 2, 1], [0, 3, 2]]),
          "turned": ([[1, 2, 0], [3, 0, 2]], [[2, 1, 0], [2, 0, 3]]),
          "other diagonal": ([[0, 1, 2], [0, 2, 3]], [[1, 0, 3], [1, 3, 2]])}


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("first", ["front", "back"])
def test_two_faces_of_one_sheet_do_not_flicker(sheet, first, tmp_path):
    """Two faces back to back, as in ShapeNet: red from the front, blue from behind, in any order of the faces."""
    front, back = SHEETS[sheet]
    (tmp_path / "a.mtl").write_text("newmtl front\nKd 1 0 0\nnewmtl back\nKd 0 0 1\n")
    faces, names = front + back, ["front"] * 2 + ["back"] * 2
    if first == "back":
        faces, names = faces[::-1], names[::-1]
    tilted = QUAD @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] * .83
    tilted = tilted if np.linalg.det(np.stack([tilted[1] - tilted[0], tilted[3] - tilted[0],
                                               np.cross(tilted[1] - tilted[0], tilted[3] - tilted[0])])) > 0 else -tilted
    mesh = synthetic.load_mesh(str(write_obj(tmp_path / "a.obj", tilted, faces, None, names, "a.mtl")))
    corners = CVPR18.place(mesh[0]).double().numpy()[[0, 1, 3]]
    normal = -np.cross(corners[1] - corners[0], corners[2] - corners[0])  # of the mirrored frame
    shown = drawn(mesh, range(24))
    for picture, eye in zip(shown, CVPR18._eyes(torch.arange(24).double()).numpy()):
        red = np.dot(eye - corners[0], normal) > 0
        on = picture[3] == 1
        np.testing.assert_allclose(picture[:3, on], np.broadcast_to(
            np.array([[1, 0, 0] if red else [0, 0, 1]]).T, (3, on.sum())), atol=1e-5)


def test_of_equal_faces_the_first_is_seen(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl one\nKd 1 0 0\nnewmtl two\nKd 0 0 1\n")
    faces = [[0, 1, 2], [0, 2, 3], [2, 0, 1], [3, 0, 2]]  # the same turn, begun at other corners
    tilted = QUAD @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    path = write_obj(tmp_path / "a.obj", tilted, faces, None, ["one", "one", "two", "two"], "a.mtl")
    assert drawn(synthetic.load_mesh(str(path)), range(24))[:, 2].max() == 0


# ---- alpha ----------------------------------------------------------------------------------------------------------

def ring():
    """A white picture with a middle that is transparent and black."""
    pixels = np.full((32, 32, 4), 255, np.uint8)
    pixels[8:24, 8:24] = 0
    return pixels


@pytest.mark.parametrize("form", ["map_Kd", "map_d", "map_d alone", "MASK", "BLEND", "ply"])
def test_alpha_cuts_out(form, tmp_path):
    """From the pictures and from the voxels."""
    if form in ("MASK", "BLEND"):
        path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD, "faces": TRIANGLES, "material": 0,
                                                "uv": UV.astype("<f4")}], images=[png_bytes(ring())],
                          textures=[{"source": 0}], materials=[{"alphaMode": form, "pbrMetallicRoughness": {
                              "baseColorTexture": {"index": 0}}}])
    elif form == "ply":
        png(tmp_path / "ring.png", ring())
        path = tmp_path / "a.ply"
        rows = [" ".join(f"{x:g}" for x in (*p, *q)) for p, q in zip(QUAD, UV)] + ["3 0 1 2", "3 0 2 3"]
        path.write_text("ply\nformat ascii 1.0\ncomment TextureFile ring.png\nelement vertex 4\nproperty float x\n"
                        "property float y\nproperty float z\nproperty float u\nproperty float v\nelement face 2\n"
                        "property list uchar int vertex_indices\nend_header\n" + "\n".join(rows) + "\n")
    else:
        png(tmp_path / "ring.png", ring())
        png(tmp_path / "mask.png", ring()[..., 3])
        (tmp_path / "a.mtl").write_text("newmtl a\nKd 1 1 1\n" + {
            "map_Kd": "map_Kd ring.png", "map_d": "map_Kd ring.png\nmap_d mask.png",
            "map_d alone": "map_d mask.png"}[form] + "\n")
        path = write_obj(tmp_path / "a.obj", QUAD, TRIANGLES, UV, ["a"] * 2, "a.mtl")
    mesh = synthetic.load_mesh(str(path))
    solid = synthetic.load_mesh(str(path), coloured=False)
    areas = [np.linalg.norm(np.cross(*(m[0].numpy()[m[1]][:, k] - m[0].numpy()[m[1]][:, 0] for k in (1, 2))), axis=1
                            ).sum() / np.ptp(m[0].numpy(), axis=0)[0] ** 2 / 2 for m in (mesh, solid)]
    assert areas == [pytest.approx(.75, abs=.02), pytest.approx(1)]
    half = float(mesh[0].abs().max())
    u, v, inside = (x.reshape(64, 2, 64, 2).mean((1, 3)) for x in seen_at(0, 64, half))
    far = np.maximum(np.abs(u - .5), np.abs(v - .5))
    shown = drawn(mesh, [0])[0]
    assert (shown[3][far < .22] == 0).all() and (shown[3][(far > .28) & (far < .47)] == 1).all()
    assert shown[:3][:, shown[3] == 1].min() > .95, "nothing of what is cut out shines through"
    grids = [writers.voxel_grid(CVPR18, *m[:2]) for m in (mesh, solid)]
    assert grids[0].sum() < .9 * grids[1].sum() and not (grids[0] & ~grids[1]).any()


def test_opaque_materials_pass_over_alpha(tmp_path):
    path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD, "faces": TRIANGLES, "material": 0,
                                            "uv": UV.astype("<f4")}], images=[png_bytes(ring())],
                      textures=[{"source": 0}],
                      materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
    assert drawn(synthetic.load_mesh(str(path)), [0])[0, 3, 32, 32] == 1
    (tmp_path / "a.mtl").write_text("newmtl a\nKd .2 .3 .4\nd .3\n")  # glass: solid, in its colour
    mesh = synthetic.load_mesh(str(write_obj(tmp_path / "a.obj", QUAD, TRIANGLES, None, ["a"] * 2, "a.mtl")))
    np.testing.assert_allclose(drawn(mesh, [0])[0, :, 32, 32], [.2, .3, .4, 1], atol=1e-5)


def test_a_mesh_that_alpha_cuts_out_whole_is_refused(tmp_path):
    path = quad_obj(tmp_path, np.zeros((4, 4, 4)))
    with pytest.raises(InputError, match=f"{path} is transparent everywhere .*; --colors=grey"):
        synthetic.load_mesh(str(path))


# ---- how fine -------------------------------------------------------------------------------------------------------

def test_cubes_are_as_fine_as_what_faces_cover(monkeypatch):
    vertices, faces = torch.from_numpy(QUAD).float(), torch.tensor(TRIANGLES)
    picture = Picture(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    look = Look(np.ones((2, 3, 3), np.float32), np.zeros(2, int), UV[TRIANGLES], [picture])
    corners = np.random.default_rng(0).random((2, 3, 3))
    assert cubes.textured(vertices, faces, Look.plain([[1, 0, 0]] * 2), 64)[2].shape == (2, 1, 1, 1, 3)
    assert cubes.textured(vertices, faces, Look.plain(corners), 64)[2].shape == (2, 2, 2, 2, 3)
    for size in (32, 64, 128):
        v, f, textures = cubes.textured(vertices, faces, look, size)
        edges = np.linalg.norm(np.diff(v.numpy()[f][:, [0, 1, 2, 0]], axis=1), axis=2) * .75 * size
        assert edges.max() <= textures.shape[1] - 1 + 1e-4, "no texel is more than a pixel from the next"
        assert len(f) * textures.shape[1] ** 2 < 8 * (.75 * size) ** 2, "memory follows the area"
    for memory in (200_000, 20_000, 100):
        monkeypatch.setattr(cubes, "MEMORY", memory)
        textures = cubes.textured(vertices, faces, look, 128)[2]
        assert 2 * textures.numel() * 4 <= memory or textures.shape[:2] == (2, 1)
    assert torch.allclose(textures[0, 0, 0, 0], torch.from_numpy(picture.pixels).float().mean((0, 1)) / 255, atol=.1)


def test_pieces_cover_their_faces_and_keep_their_turn():
    rng = np.random.default_rng(0)
    corners, limits = rng.random((20, 3, 3)), np.where(np.arange(20) % 3, .1, np.inf)
    owner, weights = pieces.cut(corners, limits)
    cut = weights @ corners[owner]
    normals = np.cross(cut[:, 1] - cut[:, 0], cut[:, 2] - cut[:, 0])
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack([np.bincount(owner, normals[:, k]) for k in range(3)], 1)
    np.testing.assert_allclose(total, of_faces, atol=1e-12)
    assert (np.einsum("pc,pc->p", normals, of_faces[owner]) > 0).all()
    assert (np.linalg.norm(cut - np.roll(cut, 1, 1), axis=2).max(1) <= limits[owner]).all()
    assert (np.diff(owner) >= 0).all() and (np.bincount(owner)[::3] == 1).all()
    about = pieces.count(corners, limits)
    assert len(owner) / 2 < about < 2 * len(owner)
    assert pieces.cut(np.empty((0, 3, 3)), np.empty(0))[1].shape == (0, 3, 3)
