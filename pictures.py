"""Draw predicted shapes, and write pictures and mesh files."""
import os

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import neural_renderer as nr
from engine import disk
from losses.priors import fronts_and_backs
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.ops import rasterize
from neural_renderer.textures import atlas

# Options of the modes that make meshes from images.
IMAGE = {"load_im": dict(metavar="PATH", help="an image, or a folder of them")}
OUTPUT = {"mask": dict(metavar="PNG", help="mask of the object, for an image without alpha"),
          "obj_frame": dict(choices=("people", "renderer"), default="people", help=(
              "frame of written meshes; people: right-handed, as the photograph shows the object; renderer: as "
              "predicted (mirrored)"))}
PAPER = (1.0, 1.0, 1.0)
RED = (1.3, 0.2, 0.15)
CLAY = (0.86, 0.66, 0.45)
# Direction to the light in the renderer's frame: above, slightly to the right and to the front.
LIGHT = (0.45, 0.75, -0.5)


def draw(dataset, vertices, faces, cameras, size=128, color=CLAY, textures=None):
    """Shaded pictures (B, 3, size, size) in [0, 1] of meshes (B, V, 3) in the renderer's frame, in one colour or in
    those of textures (B, F, T, T, T, 3)."""
    corners = vertices_to_faces(vertices, faces)
    # Both sides of a face are lit softly, so that predicted meshes do not look black where they fold. face_light
    # expects a camera that mirrors; for a camera that does not, the direction is reversed.
    direction = LIGHT if dataset.mirrors else tuple(-x for x in LIGHT)
    light = face_light(corners, 0.55, 0.5, direction=direction)
    if textures is None:
        textures = torch.as_tensor(color, dtype=vertices.dtype, device=vertices.device)
        textures = textures.expand(len(vertices), faces.shape[-2], 1, 1, 1, 3)
    background = torch.as_tensor(PAPER, dtype=vertices.dtype, device=vertices.device)
    images, _, _ = rasterize(dataset.for_pictures(vertices, cameras), faces, textures, light, background,
                             image_size=size, anti_aliasing=True, near=0.1, far=100, eps=1e-3,
                             fill_back=True, rgb=True)
    return images.clamp(0, 1)


def draw_backs(dataset, vertices, faces, cameras, size=128, outward=1):
    """`draw`, with pixels in red whose nearest face shows the inside of the surface.

    outward : 1 if the faces are counterclockwise seen from outside, -1 if they are clockwise.
    """
    fine = 2 * size
    fronts, backs = fronts_and_backs(dataset.for_pictures(vertices, cameras), faces, fine,
                                     dataset.mirrors != (outward < 0))
    behind = torch.nn.functional.avg_pool2d((backs < fronts)[:, None].to(vertices.dtype), 2)
    image = draw(dataset, vertices, faces, cameras, size)
    red = image.mean(1, keepdim=True) * image.new_tensor(RED)[:, None, None]
    return (image * (1 - behind) + behind * red).clamp(0, 1)


def to_image(tensor):
    """(3, H, W), (4, H, W) or (H, W) float in [0, 1] as a PIL image."""
    array = (tensor.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def on_paper(rgba, size):
    """An input image (3 or 4, H, W) as a (3, size, size) picture on white."""
    image = rgba[:3] + (1 - _alpha(rgba))
    return torch.nn.functional.interpolate(image[None], size=(size, size), mode="bilinear",
                                           antialias=True)[0].clamp(0, 1)


def sheet(rows, titles=None, pad=4):
    """Pictures (3, S, S) in rows, with a title over each column, as a PIL image."""
    size = rows[0][0].shape[-1]
    head = 18 if titles else 0
    width = max(map(len, rows)) * (size + pad) + pad
    image = Image.new("RGB", (width, head + len(rows) * (size + pad) + pad), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for i, title in enumerate(titles or []):
        pen.text((pad + i * (size + pad) + size / 2, head / 2 + 1), title, "black", font, "mm")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            image.paste(to_image(picture), (pad + c * (size + pad), head + pad + r * (size + pad)))
    return image


def straight(rgba):
    """An input image (3 or 4, H, W) as RGBA with straight alpha: colours not multiplied by alpha."""
    alpha = _alpha(rgba)
    return torch.cat([rgba[:3] / alpha.clamp_min(1 / 255), alpha]).clamp(0, 1)


def _alpha(image):
    return image[3:] if len(image) == 4 else torch.ones_like(image[:1])


def training_sheet(dataset, batch, prediction, size=96, turns=(0.25, 0.5, 0.75)):
    """A sheet with one row per image: input, target silhouette, predicted silhouette, and the mesh from the view of the
    image and from new views."""
    cameras = batch.cameras.to(prediction.vertices.device)
    screen = dataset.project(prediction.vertices, cameras)
    silhouettes = dataset.renderer(size).render_silhouettes(screen, prediction.faces).cpu()
    own, *new = (draw(dataset, prediction.vertices, prediction.faces, look, size, textures=prediction.textures).cpu()
                 for look in (cameras, *(dataset.turned(cameras, t) for t in turns)))
    target = torch.nn.functional.interpolate(batch.silhouettes[:, None], size=(size, size), mode="nearest")
    rows = [[on_paper(batch.images[i], size), (1 - target[i]).expand(3, -1, -1),
             (1 - silhouettes[i]).expand(3, -1, -1), own[i], *(n[i] for n in new)]
            for i in range(len(batch.images))]
    titles = ["input", "target", "prediction", "its view"] + [f"turned {round(360 * t)}°" for t in turns]
    return sheet(rows, titles)


def people_mesh(dataset, vertices, faces, frame="people"):
    """A mesh, vertices (V, 3) and faces (F, 3), as arrays for a file.

    frame 'people': right-handed, y up, as photographs show the object. If the dataset's cameras mirror, z is
    negated and faces are reversed, so that they still face outwards. 'renderer': as predicted.
    """
    if frame == "people":
        vertices, faces = dataset.flip_handedness(vertices), dataset.people_faces(faces)
    return vertices.detach().cpu().numpy(), faces.cpu().numpy()


def people_textures(dataset, textures, frame="people"):
    """Textures (F, T, T, T, 3) as an array, for the faces that `people_mesh` gives: where these are reversed, so are
    the axes of their cubes, of which each belongs to a corner. None for None."""
    if textures is None:
        return None
    if frame == "people" and dataset.mirrors:
        textures = textures.transpose(1, 3)
    return textures.detach().cpu().numpy()


def write_obj(path, dataset, vertices, faces, frame="people", textures=None):
    """An OBJ; with textures (F, T, T, T, 3) also NAME_colours.mtl and NAME_colours.png beside NAME.obj."""
    name = os.path.splitext(os.path.basename(path))[0]
    nr.save_obj(path, *people_mesh(dataset, vertices, faces, frame), people_textures(dataset, textures, frame),
                f"{name}_colours")


def write_glb(path, dataset, vertices, faces, frame="people", textures=None):
    """A GLB, in the colour of clay or with textures (F, T, T, T, 3). These are a picture, not colours of vertices: glTF
    takes the numbers of a picture for sRGB, as the training images are, and those of vertices for linear light."""
    import trimesh
    vertices, faces = people_mesh(dataset, vertices, faces, frame)
    material = {"metallicFactor": 0.0, "roughnessFactor": 0.8, "doubleSided": True}
    if textures is None:
        mesh, uv = trimesh.Trimesh(vertices, faces, process=False), None
        material["baseColorFactor"] = [int(255 * c) for c in CLAY] + [255]
    else:
        image, uv = atlas(people_textures(dataset, textures, frame))
        smooth = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
        # A corner of each face has its own place on the picture, so faces share no vertices; they still share normals.
        mesh = trimesh.Trimesh(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3),
                               vertex_normals=smooth[faces].reshape(-1, 3), process=False)
        uv, material["baseColorTexture"] = uv.reshape(-1, 2), Image.fromarray(image)
    mesh.visual = trimesh.visual.TextureVisuals(uv, trimesh.visual.material.PBRMaterial(**material))
    data = trimesh.exchange.gltf.export_glb(trimesh.Scene(mesh), include_normals=True)
    with disk.written_whole(path, "wb") as out:
        out.write(data)


def turned_around(dataset, vertices, faces, views, size, textures=None):
    """`draw` of one mesh (V, 3), with textures (F, T, T, T, 3) if it has them, from several cameras (B, ...)."""
    textures = None if textures is None else textures.expand(len(views), *textures.shape)
    return draw(dataset, vertices.expand(len(views), -1, -1), faces, views.to(vertices.device), size,
                textures=textures)


def write_turntable(path, dataset, vertices, faces, frames=36, size=160, textures=None):
    """Write a GIF of one turn around a mesh (V, 3), which repeats endlessly."""
    write_gif(path, turned_around(dataset, vertices, faces, dataset.turntable(frames).to(vertices), size, textures))


def write_gif(path, pictures):
    images = [to_image(p).quantize(64, dither=Image.Dither.NONE) for p in pictures]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=70, loop=0)


def figure_of(columns, rows=1, size=4.0):
    """A matplotlib figure without a display, and its axes as a (rows, columns) array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(size * columns, size * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
