"""The page of many meshes: its content, and that names from strangers cannot run code. In a real browser, meshes
are drawn as by the renderer, and turn and zoom."""
import base64
import html.parser
import io
import os
import re
import urllib.parse

import numpy as np
import torch
from command import CAR, call
from gallery import Item, face_colours, page
from PIL import Image

PAYLOADS = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", '"><svg onload=alert(3)>',
            "' onfocus='alert(4)' autofocus='", "javascript:alert(5)//", "{{alert(6)}}", "$style ${script} $$",
            "a&lt;b", "100%?x#y", "new\nline", "caf\udce9", "مرحبا 车"]


def arm():
    """An L with a foot towards the viewer: three boxes as one mesh, right-handed, no symmetry."""
    from solids import box
    parts = [box((-.3, -.4, -.1), (-.1, .4, .1)), box((-.1, .2, -.1), (.4, .4, .1)),
             box((-.3, -.4, .1), (-.1, -.2, .45))]
    vertices = np.concatenate([v for v, _ in parts])
    count = np.cumsum([0] + [len(v) for v, _ in parts])
    return vertices, np.concatenate([f + c for (_, f), c in zip(parts, count)])


def items(names):
    vertices, _ = arm()
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    return [Item(name, picture, vertices, {"OBJ": name + "_out.obj", "GLB": name + "_out.glb"}) for name in names]


class Tags(html.parser.HTMLParser):
    """[(tag, attributes)] and the text of each tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def of(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def test_page_read_by_a_parser_holds_names_as_text_and_links_to_files():
    made = page("run </title><script>alert(0)</script>", "about <b>", items(PAYLOADS), arm()[1])
    read = Tags(made)
    assert len(read.of("script")) == len(read.of("title")) == 1 and not read.of("svg")
    assert len(read.of("img")) == len(read.of("canvas")) == len(PAYLOADS)
    shown = [name.encode("utf-8", "replace").decode() for name in PAYLOADS]
    assert [image["alt"] for image in read.of("img")] == shown and read.text["p"][0] == "about <b>"
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    for name, link in zip([n for n in PAYLOADS for _ in range(2)], read.of("a")):
        assert link["href"].startswith("./") and not re.search(r"[:<>\"'#?\s]", link["href"])
        file = os.fsdecode(urllib.parse.unquote_to_bytes(link["href"][2:]))
        assert file in (name + "_out.obj", name + "_out.glb")


def test_page_needs_nothing_from_elsewhere():
    made = page("run", "about", items(["a"]), arm()[1])
    assert not re.search(r"https?:|@import|url\(|//[a-z]+\.", made)
    sources = [v for _, attributes in Tags(made).tags for k, v in attributes.items() if k in ("src", "href")]
    assert all(s.startswith(("data:image/png;base64,", "./")) for s in sources)


def test_meshes_come_back_from_the_page():
    vertices, faces = arm()
    read = Tags(page("run", "about", items(["a"]), faces))
    canvas = read.of("canvas")[0]
    packed = np.frombuffer(base64.b64decode(canvas["data-vertices"]), "<i2").reshape(-1, 3)
    np.testing.assert_allclose(packed / 32767 * float(canvas["data-scale"]), vertices, atol=1e-5)
    stored = np.frombuffer(base64.b64decode(read.of("main")[0]["data-faces"]), "<u4")
    assert (stored.reshape(-1, 3) == faces).all()


def test_a_mesh_of_one_point_is_no_error():
    item = items(["a"])[0]
    item.vertices = np.zeros((4, 3))
    assert float(Tags(page("run", "", [item], np.array([[0, 1, 2]]))).of("canvas")[0]["data-scale"]) > 0


TROUBLE = ("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


# ---- in a browser ----------------------------------------------------------------------------------

def opened(browser, folder, names=("a", "b"), title="run"):
    (folder / "page.html").write_text(page(title, "about", items(names), arm()[1]), encoding="utf-8")
    browser.open((folder / "page.html").as_uri())
    browser.frame()


def place(browser, number=0):
    """(x, y, side) of a view: its top left corner and its side."""
    rectangle = f"document.querySelectorAll('canvas')[{number}].getBoundingClientRect()"
    return browser.run(f"(r => [r.x, r.y, r.width])({rectangle})")


def seen(browser, number=0):
    """(H, W) bool: where a view shows its mesh, from the alpha of the canvas."""
    text = browser.run(f"document.querySelectorAll('canvas')[{number}].toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))[..., 3] > 127


def colours(browser, number=0):
    """(N, 3) uint8 of the pixels that a view's mesh fills."""
    text = browser.run(f"document.querySelectorAll('canvas')[{number}].toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    return pixels[pixels[..., 3] > 250][:, :3]


def rendered(side, azimuth, elevation, zoom):
    """The same from the differentiable renderer; angles in degrees."""
    import neural_renderer as nr
    vertices, faces = (torch.as_tensor(a) for a in arm())
    flipped = vertices.float() * torch.tensor([1, 1, -1.0])  # the renderer's frame mirrors
    turn = torch.tensor([-azimuth])
    eye = nr.get_points_from_angles(torch.tensor([2.732]), torch.tensor([elevation]), turn)
    screen = nr.perspective(nr.look_at(flipped[None], eye), 15.0) * torch.tensor([zoom, zoom, 1.0])
    return nr.Renderer(side, camera_mode="none").render_silhouettes(screen, faces.flip(-1).long())[0].numpy() > 0.5


def fitting():
    """The zoom at which the corner of the arm that sticks out most, from 24 sides, stays in the picture."""
    vertices, widest = np.asarray(arm()[0], float), 0.0
    for azimuth in np.radians(np.arange(0, 360, 15)):
        back = np.array([np.sin(azimuth) * np.cos(np.pi / 6), .5, np.cos(azimuth) * np.cos(np.pi / 6)])
        right = np.array([np.cos(azimuth), 0, -np.sin(azimuth)])
        across = vertices @ np.stack([right, np.cross(back, right)], 1)
        widest = max(widest, np.abs(across / (2.732 - vertices @ back)[:, None]).max() / np.tan(np.radians(15)))
    return min(1.3, 0.97 / widest)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_meshes_are_drawn_as_the_renderer_draws_them(browser, tmp_path):
    """At the start, and after dragging a quarter of the width to the right and a sixth down."""
    opened(browser, tmp_path)
    x, y, side = place(browser)
    at_start = seen(browser)
    assert overlap(at_start, rendered(len(at_start), 30.0, 30.0, fitting())) > 0.97
    assert fitting() < 1.2 and not np.concatenate([at_start[[0, -1]], at_start[:, [0, -1]].T]).any()  # all of it
    browser.drag(x + side / 2, y + side / 2, side / 4, side / 6)
    turned = seen(browser)
    assert overlap(turned, rendered(len(turned), 75.0, 60.0, fitting())) > 0.97
    assert overlap(turned, at_start) < 0.9 and (seen(browser, 1) == at_start).all()  # the other stays
    picture = browser.screenshot(tmp_path / "page.png", x=x, y=y, width=side, height=side)
    clay = picture[..., 0].astype(int) - picture[..., 2] > 20  # what a person sees is brown, on paper
    assert abs(clay.mean() - turned.mean()) < 0.02 and (picture[0, 0] > 240).all()
    assert len(np.unique(picture[clay], axis=0)) > 5  # shaded


def painted(pixels, mask):
    """Share of red and of blue pixels."""
    red, blue = (pixels[..., k].astype(int) - pixels[..., 2 - k] > 40 for k in (0, 2))
    return (red & mask).sum() / mask.sum(), (blue & mask).sum() / mask.sum()


def test_meshes_are_drawn_in_their_colours(browser, tmp_path):
    """By the renderer's own picture of the same cubes, from the same side: red to the left, blue to the right in each
    face whose third corner is to the right; another mesh on the page stays clay."""
    import neural_renderer as nr
    vertices, faces = arm()
    left, right = np.array([1., 0, 0]), np.array([0., 0, 1])
    share = (vertices[faces][:, :, 0] + .3) / .7  # of blue at each corner: x from left to right
    index = np.indices((3, 3, 3)).reshape(3, -1).T.astype(float)
    index[0] = 1
    blue = (share @ (index / index.sum(1, keepdims=True)).T).reshape(-1, 3, 3, 3, 1) > .5
    textures = np.where(blue, right, left)
    two = items(["a", "b"])
    two[0].textures = textures
    (tmp_path / "page.html").write_text(page("run", "about", two, faces), encoding="utf-8")
    browser.open((tmp_path / "page.html").as_uri())
    browser.frame()
    pictures = []
    for number in range(2):
        text = browser.run(f"document.querySelectorAll('canvas')[{number}].toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as picture:
            pictures.append(np.asarray(picture.convert("RGBA")))
    side = len(pictures[0])
    eye = nr.get_points_from_angles(torch.tensor([2.732]), torch.tensor([30.0]), torch.tensor([-30.0]))
    flipped = torch.as_tensor(vertices).float() * torch.tensor([1, 1, -1.0])
    screen = nr.perspective(nr.look_at(flipped[None], eye), 15.0) * torch.tensor([1.3, 1.3, 1.0])
    renderer = nr.Renderer(side, camera_mode="none", light_intensity_ambient=1, light_intensity_directional=0)
    drawn = renderer.render_rgb(screen, torch.as_tensor(faces).flip(-1).long(),
                                torch.as_tensor(textures).float().transpose(1, 3)[None])[0].permute(1, 2, 0).numpy()
    mask = (pictures[0][..., 3] > 127) & (drawn.sum(2) > .5)
    (red, blue), wanted = painted(pictures[0], mask), painted((drawn * 255).astype(np.uint8), mask)
    assert red > .1 and blue > .1 and abs(red - wanted[0]) < .08 and abs(blue - wanted[1]) < .08
    same = (pictures[0][..., 0].astype(int) > pictures[0][..., 2]) == (drawn[..., 0] > drawn[..., 2])
    assert same[mask].mean() > .93
    assert painted(pictures[1], pictures[1][..., 3] > 127)[1] == 0


def test_cells_of_a_face_hold_its_colours():
    """Those of one colour a face, and of cubes where the weights of the second and the third corner lead."""
    one = np.random.default_rng(0).random((5, 1, 1, 1, 3))
    assert (face_colours(one) == np.round(255 * one[:, :, :, 0])).all()
    cube = np.zeros((1, 2, 2, 2, 3))
    cube[:, 1, 0, 0], cube[:, 0, 1, 0], cube[:, 0, 0, 1] = np.eye(3)
    found = face_colours(cube)[0]
    assert found.shape == (2, 2, 3) and [found[p, q].argmax() for p, q in ((0, 0), (1, 0), (0, 1))] == [0, 1, 2]


def test_zoom_keys_and_together(browser, tmp_path):
    opened(browser, tmp_path)
    x, y, side = place(browser)
    middle, at_start = (x + side / 2, y + side / 2), seen(browser)
    browser.mouse("mouseWheel", *middle, deltaX=0, deltaY=-300)
    browser.frame()
    assert (seen(browser) == at_start).all()  # not chosen: the wheel is the page's
    browser.drag(*middle, 0, 0)
    browser.mouse("mouseWheel", *middle, deltaX=0, deltaY=-300)
    browser.frame()
    zoom = fitting() * np.exp(0.45)
    assert overlap(seen(browser), rendered(len(at_start), 30.0, 30.0, zoom)) > 0.97
    browser.key("0", "0")
    assert (seen(browser) == at_start).all()
    browser.key("ArrowRight")
    assert overlap(seen(browser), rendered(len(at_start), 30 + np.degrees(0.15), 30.0, fitting())) > 0.97
    browser.run("document.getElementById('together').click()")
    browser.key("ArrowUp")
    assert (seen(browser) == seen(browser, 1)).all() and (seen(browser, 1) != at_start).any()


def test_backs_are_red_on_a_switch(browser, tmp_path):
    """The first mesh shows its outside everywhere, the second, a mirror image with the same faces, its inside."""
    right, wrong = items(["right", "inside out"])
    wrong.vertices = wrong.vertices * [-1, 1, 1]
    (tmp_path / "page.html").write_text(page("run", "", [right, wrong], arm()[1]), encoding="utf-8")
    browser.open((tmp_path / "page.html").as_uri())
    browser.frame()

    def red(number):
        r, g, b = colours(browser, number).T.astype(int)
        return float((r - np.maximum(g, b) > 60).mean())
    assert red(0) == red(1) == 0
    browser.run("document.getElementById('backs').click()")
    browser.frame()
    assert red(0) == 0 and red(1) > 0.9
    browser.run("document.getElementById('backs').click()")
    browser.frame()
    assert red(0) == red(1) == 0


def test_two_fingers_zoom(browser, tmp_path):
    opened(browser, tmp_path)
    x, y, side = place(browser)
    before = seen(browser)

    def touch(kind, apart):
        points = [] if kind == "touchEnd" else [{"x": x + side / 2 + s * apart, "y": y + side / 2, "id": i}
                                                 for i, s in enumerate((-1, 1))]
        browser("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    touch("touchStart", 20)
    for apart in (22, 24, 26):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    browser.frame()
    after = seen(browser)
    assert overlap(after, rendered(len(after), 30.0, 30.0, fitting() * 26 / 20)) > 0.97  # and nothing turned
    assert overlap(after, before) < 0.9


def test_names_of_strangers_do_nothing(browser, tmp_path):
    opened(browser, tmp_path, PAYLOADS, "run </title><script>alert(0)</script>")
    shown = [name.encode("utf-8", "replace").decode() for name in PAYLOADS]
    assert browser.run("[...document.querySelectorAll('b')].map(b => b.textContent)") == shown
    browser.run("document.querySelectorAll('canvas').forEach(c => c.focus())")
    browser.frame()
    assert not [e for e in browser.events if e["method"] in TROUBLE]
    assert browser.run("document.scripts.length") == 1
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in asked)
    # Even if one were not escaped, the content security policy would not run it.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=data:x onerror=window.ran=1>')")
    browser.frame()
    assert browser.run("window.ran === undefined")


def test_a_hundred_meshes_are_drawn_when_they_are_seen(browser, tmp_path):
    opened(browser, tmp_path, [f"mesh {i}" for i in range(100)])
    drawn = "[...document.querySelectorAll('canvas')].filter(c => c.width && c.toDataURL().length > 2000).length"
    first = browser.run(drawn)
    assert 4 <= first <= 20
    browser.run("window.scrollTo(0, 1e6)")
    browser.until("document.querySelectorAll('canvas')[99].width > 100")
    browser.frame()
    assert seen(browser, 99).mean() > 0.05 and browser.run(drawn) <= 24
    assert browser.run("document.querySelectorAll('canvas')[0].width") == 0


def test_page_that_reconstruct_writes(browser, ae, data, tmp_path):
    """The page of a folder with unusual file names. Its links lead to the files beside it."""
    image = np.load(data / f"{CAR}_test_images.npz")["arr_0"][0, 3].transpose(1, 2, 0)
    (tmp_path / "in").mkdir()
    names = [name + ".png" for name in PAYLOADS if "/" not in name]
    for name in names:
        Image.fromarray(image).save(tmp_path / "in" / name)
    assert call("--mode=reconstruct", "--ckpt_dir", ae, "--load_im", tmp_path / "in", "--sample_dir",
                tmp_path / "out", "--device=cpu", "--threads=1") == 0
    browser.open((tmp_path / "out" / "reconstructions.html").as_uri())
    browser.frame()
    assert sorted(browser.run("[...document.querySelectorAll('b')].map(b => b.textContent)")) == sorted(
        name.encode("utf-8", "replace").decode() for name in names)
    links = browser.run("[...document.querySelectorAll('a')].map(a => a.href)")
    assert len(links) == 4 * len(names)
    for link in links:
        assert os.path.exists(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(link).path)), link
    assert seen(browser).mean() > 0.03
    assert not [e for e in browser.events if e["method"] in TROUBLE]
