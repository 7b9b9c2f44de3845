"""One HTML page that shows many meshes, each next to its image. The mouse, a finger or the keys turn them.

The page is one file; it needs no network, no graphics card and no library. The meshes share their faces and store
coordinates in 16 bits, so each takes about 5 KB; its colours take as much, or with cubes of T^3 texels T^2 times that.
"""
import base64
import hashlib
import html
import io
import os
import urllib.parse
from dataclasses import dataclass
from string import Template

import numpy as np

from neural_renderer.textures import read_cubes

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Item:
    """One image and its mesh."""
    name: str             # any text
    image: object         # PIL image
    vertices: np.ndarray  # (V, 3), right-handed, y up, around the origin, about 1 large
    links: dict           # {label: file beside the page}
    textures: np.ndarray | None = None  # (F, T, T, T, 3) in [0, 1], as the renderer takes them; None is clay


def page(title, about, items, faces):
    """The page as text.

    Parameters
    ----------
    title, about : str, a line each.
    items : list of Item.
    faces : (F, 3) int, of every item, counterclockwise seen from outside. On a switch, the page shows in red what is
        seen from inside.

    Notes
    -----
    Names may come from strangers: they are escaped, and the page's content security policy runs its own script only.
    """
    style, script = _asset("style.css"), _asset("viewer.js")
    return Template(_asset("page.html")).substitute(
        title=_text(title), about=_text(about), style=style, script=script,
        style_hash=_hash(style), script_hash=_hash(script),
        faces=_base64(np.asarray(faces).astype("<u4").tobytes()), items="\n".join(map(_item, items)))


def _item(item):
    pixels = io.BytesIO()
    item.image.save(pixels, "PNG", optimize=True)
    scale = float(np.abs(item.vertices).max()) or 1.0
    packed = np.round(item.vertices * (32767 / scale)).astype("<i2")
    colours = "" if item.textures is None else f' data-colours="{_base64(face_colours(item.textures).tobytes())}"'
    name = _text(item.name)
    links = " ".join(f'<a href="{_url(file)}" download>{_text(label)}</a>' for label, file in item.links.items())
    return (f'<figure><div><img alt="{name}" src="data:image/png;base64,{_base64(pixels.getvalue())}">'
            f'<canvas tabindex="0" role="application" aria-label="3D view of {name}; arrow keys turn it, plus and '
            f'minus zoom, 0 resets it" data-scale="{scale:.6g}" data-vertices="{_base64(packed.tobytes())}"'
            f'{colours}>'
            f'</canvas></div><figcaption><b title="{name}">{name}</b> <span>{links}</span></figcaption></figure>')


def face_colours(textures):
    """uint8 (F, n, n, 3), n = T, of cubes (F, T, T, T, 3): the cell [p, q] of a face holds its colour where the
    barycentric weights of its second and third corner are p / n ... (p + 1) / n and q / n ... (q + 1) / n."""
    n = textures.shape[1]
    second, third = (np.indices((n, n)).reshape(2, -1) + 0.5) / n
    weights = np.stack([np.maximum(1 - second - third, 0), second, third], 1)  # cells across the third side: its edge
    colours = read_cubes(textures, weights / weights.sum(1, keepdims=True))
    return np.round(colours.clip(0, 1) * 255).astype(np.uint8).reshape(-1, n, n, 3)


def _asset(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def _text(text):
    """Escaped; bytes of a file name that are not text (lone surrogates in Python) become '?'."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _url(file):
    """A relative link, even for a file named 'javascript:x'."""
    return "./" + urllib.parse.quote(os.fsencode(file), safe="")


def _base64(data):
    return base64.b64encode(data).decode()


def _hash(text):
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())
