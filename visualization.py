"""Pictures and meshes for people; `--mode=reconstruct` and `interpolation`."""
import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

import neural_renderer as nr
import runs
from errors import InputError
from inference import load_run
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.ops import rasterize

PAPER = (1.0, 1.0, 1.0)
CLAY = (0.86, 0.66, 0.45)
# Towards the light, in the renderer's frame: from above, a little from the right and the front.
LIGHT = (0.45, 0.75, -0.5)


def draw(dataset, vertices, faces, views, size=128, color=CLAY):
    """Shaded pictures (B, 3, size, size) in [0, 1] of meshes (B, V, 3) in the renderer's frame."""
    corners = vertices_to_faces(vertices, faces)
    # Both sides catch the light, softly: predicted meshes fold, and must not turn black where they do.
    light = face_light(corners, 0.55, 0.5, direction=LIGHT)
    texture = torch.as_tensor(color, dtype=vertices.dtype, device=vertices.device)
    texture = texture.expand(len(vertices), faces.shape[-2], 1, 1, 1, 3)
    background = torch.as_tensor(PAPER, dtype=vertices.dtype, device=vertices.device)
    images, _, _ = rasterize(dataset.project(vertices, views), faces, texture, light, background,
                             image_size=size, anti_aliasing=True, near=0.1, far=100, eps=1e-3,
                             fill_back=True, rgb=True)
    return images.clamp(0, 1)


def to_image(tensor):
    """(3, H, W), (4, H, W) or (H, W) float in [0, 1] as a PIL image."""
    array = (tensor.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def on_paper(rgba, size):
    """An input image (4, H, W) as a (3, size, size) picture, its empty parts white."""
    image = rgba[:3] + (1 - rgba[3:])
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


def training_sheet(dataset, batch, prediction, size=96, turns=(0.25, 0.5, 0.75)):
    """Input, target silhouette, predicted silhouette and mesh from its own and from new views."""
    views = batch.views.to(prediction.vertices.device).to(prediction.vertices.dtype)
    screen = dataset.project(prediction.vertices, views)
    silhouettes = dataset.renderer(size).render_silhouettes(screen, prediction.faces).cpu()
    own = draw(dataset, prediction.vertices, prediction.faces, views, size).cpu()
    new = [draw(dataset, prediction.vertices, prediction.faces, views + t * dataset.num_views, size).cpu()
           for t in turns]
    target = torch.nn.functional.interpolate(batch.silhouettes[:, None], size=(size, size), mode="nearest")
    rows = [[on_paper(batch.images[i], size), (1 - target[i]).expand(3, -1, -1),
             (1 - silhouettes[i]).expand(3, -1, -1), own[i], *(n[i] for n in new)]
            for i in range(len(batch.images))]
    titles = ["input", "target", "prediction", "its view"] + [f"turned {round(360 * t)}°" for t in turns]
    return sheet(rows, titles)


def people_mesh(dataset, vertices, faces, frame="people"):
    """Mesh (V, 3), (F, 3) as arrays for a file.

    frame 'people': right-handed, y up, as photographs show the object (z negated, winding reversed so
    that faces look outwards); 'renderer': as predicted.
    """
    if frame == "people":
        vertices, faces = dataset.flip_handedness(vertices), faces.flip(-1)
    return vertices.detach().cpu().numpy(), faces.cpu().numpy()


def write_obj(path, dataset, vertices, faces, frame="people"):
    nr.save_obj(path, *people_mesh(dataset, vertices, faces, frame))


def write_glb(path, dataset, vertices, faces, frame="people"):
    import trimesh
    vertices, faces = people_mesh(dataset, vertices, faces, frame)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mesh.visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(
        baseColorFactor=[int(255 * c) for c in CLAY] + [255], metallicFactor=0.0, roughnessFactor=0.8,
        doubleSided=True))
    data = trimesh.exchange.gltf.export_glb(trimesh.Scene(mesh), include_normals=True)
    beside = path + ".part"
    with open(beside, "wb") as out:
        out.write(data)
    os.replace(beside, path)


def write_turntable(path, dataset, vertices, faces, frames=36, size=160):
    """An endless GIF of one turn around a mesh (V, 3)."""
    views = dataset.turntable(frames).to(vertices)
    _write_gif(path, draw(dataset, vertices.expand(frames, -1, -1), faces, views, size))


def _write_gif(path, pictures):
    images = [to_image(p).quantize(64, dither=Image.Dither.NONE) for p in pictures]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=70, loop=0)


# ---- images of people ---------------------------------------------------------------------------

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 64_000_000


def load_image(path, size, mask_path=None):
    """Any picture of one object as (4, size, size) float in [0, 1]: square, on black.

    The object is where alpha says; without alpha, where `mask_path` (white on black) says; without
    either, where the picture differs from the one colour of its border. Colours are multiplied by the
    mask, as in the training images, and everything is resized with anti-aliasing.

    Raises InputError, naming the file, if it cannot be read or no object can be told from its ground.
    """
    image = _open_image(path)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    rgba = _unit_rgba(image)
    rgb, alpha, shown_by = rgba[..., :3], rgba[..., 3], "alpha"
    if mask_path:
        mask = _open_image(mask_path)
        if mask.size != image.size:
            raise InputError(f"--mask={mask_path} is {mask.size[0]}x{mask.size[1]}, the image {path} is "
                             f"{image.size[0]}x{image.size[1]}")
        alpha, shown_by = _unit_rgba(mask)[..., :3].mean(2), "mask"
    elif not has_alpha or alpha.min() == 1:
        alpha, shown_by = _ground(rgb, path), "difference from its background"
    if alpha.max() < 0.5:
        raise InputError(f"{path} shows no object: its {shown_by} is empty")
    premultiplied = np.concatenate([rgb * alpha[..., None], alpha[..., None]], 2)
    height, width = alpha.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[top:top + height, left:left + width] = premultiplied
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None]
    if side != size:
        tensor = torch.nn.functional.interpolate(tensor, size=(size, size), mode="bilinear",
                                                 antialias=True)
    return tensor[0].clamp(0, 1)


def _open_image(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is the lower limit
            image = Image.open(path)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{path} has {image.width}x{image.height} pixels; at most "
                             f"{MAX_PIXELS // 1_000_000} million are read")
        image.load()
        return ImageOps.exif_transpose(image)  # a phone's photo is stored as the sensor lay
    except FileNotFoundError:
        raise InputError(f"there is no image {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not an image that can be read: {error}") from None


def _unit_rgba(image):
    """(H, W, 4) float32 in [0, 1] of an image of any mode; Pillow alone would clip 16 bits to 8."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32) / 65535
        return np.stack([grey, grey, grey, np.ones_like(grey)], 2).clip(0, 1)
    return np.asarray(image.convert("RGBA"), np.float32) / 255


def _ground(rgb, path, tolerance=0.06):
    """Mask of what differs from a uniform border."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    ground = np.median(border, 0)
    if np.quantile(np.abs(border - ground).max(1), 0.9) > tolerance:
        raise InputError(f"{path} has neither alpha nor a uniform background; give --mask, a picture of "
                         "the same size that is white where the object is")
    return (np.abs(rgb - ground).max(2) > tolerance).astype(np.float32)


def list_images(path):
    """The image files of a folder, sorted, or the one file."""
    if os.path.isdir(path):
        found = sorted(f for f in os.listdir(path) if f.lower().endswith(IMAGE_ENDINGS))
        if not found:
            raise InputError(f"--load_im={path} is a folder without images ({', '.join(IMAGE_ENDINGS)})")
        return [os.path.join(path, f) for f in found]
    if not os.path.exists(path):
        raise InputError(f"--load_im={path}: there is no such file or folder")
    return [path]


def reconstruct(options, device):
    """Meshes from images: OBJ, GLB, a grid of the dataset's views and a turntable of each."""
    if not options.load_im:
        raise InputError("--mode=reconstruct needs --load_im, an image or a folder of images")
    paths = list_images(options.load_im)
    if options.mask and len(paths) > 1:
        raise InputError(f"--mask goes with one image, --load_im={options.load_im} holds {len(paths)}")
    model = load_run(options.ckpt_dir, options.eval_flag, device)
    images = [load_image(p, model.options["img_size"], options.mask) for p in paths]
    stems = _distinct_stems(paths)
    ours = {os.path.join(options.sample_dir, name) for stem in stems for name in _results(stem)}
    there = [path for path in ours if os.path.dirname(os.path.realpath(path)) ==
             os.path.dirname(os.path.realpath(paths[0])) and os.path.exists(path)]
    if there:
        raise InputError(f"--sample_dir={options.sample_dir} is where the images are, and {sorted(there)[0]} would be "
                         "written over; choose another folder")
    runs.make_folder(options.sample_dir, "--sample_dir")
    dataset = model.dataset
    for path, stem, image in zip(paths, stems, images):
        prediction = model.predict(image[None])
        vertices, faces = prediction.vertices[0], prediction.faces
        stem = os.path.join(options.sample_dir, stem)
        to_image(on_paper(image, 256)).save(f"{stem}.png")
        write_obj(f"{stem}_out.obj", dataset, vertices, faces, options.obj_frame)
        write_glb(f"{stem}_out.glb", dataset, vertices, faces, options.obj_frame)
        views = torch.arange(dataset.num_views, device=device)
        pictures = draw(dataset, vertices.expand(len(views), -1, -1), faces, views, 128).cpu()
        rows = [list(pictures[i:i + 6]) for i in range(0, len(pictures), 6)]
        sheet(rows).save(f"{stem}_out.png")
        write_turntable(f"{stem}_out.gif", dataset, vertices, faces)
        print(f"{path} -> {stem}_out.obj, .glb, .png ({dataset.num_views} views), .gif")
    return 0


def interpolation(options, device):
    """Shapes between those of two images: a strip, an animation, a mesh of each step."""
    if not options.load_im or not options.load_im1:
        raise InputError("--mode=interpolation needs --load_im and --load_im1, two images")
    model = load_run(options.ckpt_dir, options.eval_flag, device)
    dataset, size = model.dataset, 144
    images = torch.stack([load_image(p, model.options["img_size"]) for p in (options.load_im, options.load_im1)])
    first, last = model.encode(images)
    runs.make_folder(options.sample_dir, "--sample_dir")

    def shapes(count):
        t = torch.linspace(0, 1, count, device=device)[:, None]
        return model.decode((1 - t) * first + t * last)

    steps = shapes(options.steps)
    blank = torch.ones(3, size, size)
    rows = []
    for row, view in enumerate(dataset.turntable(4) + dataset.num_views / 8):
        pictures = draw(dataset, steps, model.faces, view.to(device).expand(len(steps)), size).cpu()
        ends = [on_paper(i, size) for i in images] if row == 0 else [blank, blank]
        rows.append([ends[0], *pictures, ends[1]])
    stem = os.path.join(options.sample_dir, "interpolation")
    titles = ["from"] + [f"{i / (len(steps) - 1):.2f}" for i in range(len(steps))] + ["to"]
    sheet(rows, titles).save(f"{stem}.png")
    for i, vertices in enumerate(steps):
        write_obj(f"{stem}_{i:02d}.obj", dataset, vertices, model.faces, options.obj_frame)
        write_glb(f"{stem}_{i:02d}.glb", dataset, vertices, model.faces, options.obj_frame)
    there = shapes(24)
    frames = torch.cat([there, there.flip(0)])
    _write_gif(f"{stem}.gif", draw(dataset, frames, model.faces, dataset.turntable(len(frames)).to(frames), 160))
    print(f"wrote {stem}.png, .gif, _00 ... _{len(steps) - 1:02d}.obj, .glb")
    return 0


def _distinct_stems(paths):
    """A name for the results of each image: without its ending where that tells them apart, numbered
    where two would still write the same file."""
    plain = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    taken, stems = set(), []
    for path, name in zip(paths, plain):
        if plain.count(name) > 1:
            name = os.path.basename(path).replace(".", "_")
        stem, number = name, 1
        while taken & set(_results(stem)):
            number += 1
            stem = f"{name}-{number}"
        taken |= set(_results(stem))
        stems.append(stem)
    return stems


def _results(stem):
    """Files that `reconstruct` writes of one image."""
    return [f"{stem}.png"] + [f"{stem}_out.{ending}" for ending in ("obj", "glb", "png", "gif")]
