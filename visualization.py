"""Pictures and meshes for people; `--mode=reconstruct` and `interpolation`."""
import math
import os

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import gallery
import neural_renderer as nr
from engine import disk
from errors import InputError
from images import list_images, load_input, load_pair
from inference import open_model, open_split
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.ops import rasterize
from readers.base import tell_left_out

PAPER = (1.0, 1.0, 1.0)
CLAY = (0.86, 0.66, 0.45)
# Towards the light, in the renderer's frame: from above, a little from the right and the front.
LIGHT = (0.45, 0.75, -0.5)


def draw(dataset, vertices, faces, cameras, size=128, color=CLAY):
    """Shaded pictures (B, 3, size, size) in [0, 1] of meshes (B, V, 3) in the renderer's frame."""
    corners = vertices_to_faces(vertices, faces)
    # Both sides catch the light, softly: predicted meshes fold, and must not turn black where they do. The
    # light's normals are those of a mirroring camera; seen by another, outsides face the other way.
    direction = LIGHT if dataset.mirrors else tuple(-x for x in LIGHT)
    light = face_light(corners, 0.55, 0.5, direction=direction)
    texture = torch.as_tensor(color, dtype=vertices.dtype, device=vertices.device)
    texture = texture.expand(len(vertices), faces.shape[-2], 1, 1, 1, 3)
    background = torch.as_tensor(PAPER, dtype=vertices.dtype, device=vertices.device)
    images, _, _ = rasterize(dataset.for_pictures(vertices, cameras), faces, texture, light, background,
                             image_size=size, anti_aliasing=True, near=0.1, far=100, eps=1e-3,
                             fill_back=True, rgb=True)
    return images.clamp(0, 1)


def to_image(tensor):
    """(3, H, W), (4, H, W) or (H, W) float in [0, 1] as a PIL image."""
    array = (tensor.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def on_paper(rgba, size):
    """An input image (3 or 4, H, W) as a (3, size, size) picture, its empty parts white."""
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
    """An input image (3 or 4, H, W) as people have pictures: RGBA, colours not multiplied by alpha."""
    alpha = _alpha(rgba)
    return torch.cat([rgba[:3] / alpha.clamp_min(1 / 255), alpha]).clamp(0, 1)


def _alpha(image):
    return image[3:] if len(image) == 4 else torch.ones_like(image[:1])


def training_sheet(dataset, batch, prediction, size=96, turns=(0.25, 0.5, 0.75)):
    """Input, target silhouette, predicted silhouette and mesh from its own and from new views."""
    cameras = batch.cameras.to(prediction.vertices.device)
    screen = dataset.project(prediction.vertices, cameras)
    silhouettes = dataset.renderer(size).render_silhouettes(screen, prediction.faces).cpu()
    own = draw(dataset, prediction.vertices, prediction.faces, cameras, size).cpu()
    new = [draw(dataset, prediction.vertices, prediction.faces, dataset.turned(cameras, t), size).cpu()
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
        vertices, faces = dataset.flip_handedness(vertices), dataset.people_faces(faces)
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


# ---- the modes -----------------------------------------------------------------------------------

def _read_images(paths, model, options):
    """(paths, images, {path: sentence}); the last of images that cannot be used, with --skip_bad."""
    good, images, bad = [], [], {}
    for path in paths:
        try:
            images.append(load_input(path, model.options["img_size"], model.dataset.channels, options.mask))
            good.append(path)
        except InputError as error:
            if not options.skip_bad:
                more = "; --skip_bad goes on without such images" if len(paths) > 1 else ""
                raise InputError(f"{error}{more}") from None
            bad[path] = str(error)
    tell_left_out(list(bad.values()), _say)
    if not good:
        raise InputError(f"--skip_bad leaves no image of --load_im={options.load_im}")
    return good, images, bad


def reconstruct(options, device):
    """Meshes from images: OBJ, GLB, a grid of the dataset's views and a turntable of each; of a folder also
    one sheet, one page of all and `reconstructions.json`, which lists them and the images left out by --skip_bad."""
    left_out = {}
    if options.load_im:
        paths = list_images(options.load_im)
        if options.mask and len(paths) > 1:
            raise InputError(f"--mask goes with one image, --load_im={options.load_im} holds {len(paths)}")
        model = open_model(options, device)
        paths, images, left_out = _read_images(paths, model, options)
    else:
        if options.mask:
            raise InputError(f"--mask={options.mask} goes with --load_im, one image; images of a split have masks")
        model = open_model(options, device)
        data = open_split(model, options)
        paths, images = _of_split(data, options.split, options.n_images)
        _say(f"{len(paths)} images of {options.split}, without --load_im" + (
            f": {data.num_objects} objects, one image of each (of {len(data)} in all)"
            if len(paths) < options.n_images else ""))
    together = _sheets(len(paths)) + [LIST, PAGE] if len(paths) > 1 or os.path.isdir(options.load_im or "") else []
    stems = _distinct_stems(paths, together)
    ours = {os.path.join(options.sample_dir, name) for stem in stems for name in _results(stem)}
    ours |= {os.path.join(options.sample_dir, name) for name in together}
    there = [path for path in ours if options.load_im and os.path.dirname(os.path.realpath(path)) ==
             os.path.dirname(os.path.realpath(paths[0])) and os.path.exists(path)]
    if there:
        raise InputError(f"--sample_dir={options.sample_dir} is where the images are, and {sorted(there)[0]} "
                         "would be written over; choose another folder")
    disk.make_folder(options.sample_dir, "--sample_dir")
    dataset, meshes = model.dataset, []
    for path, stem, image in zip(paths, stems, images):
        prediction = model.predict(image[None])
        vertices, faces = prediction.vertices[0], prediction.faces
        meshes.append(vertices)
        stem = os.path.join(options.sample_dir, stem)
        to_image(on_paper(image, 256)).save(f"{stem}.png")
        write_obj(f"{stem}_out.obj", dataset, vertices, faces, options.obj_frame)
        write_glb(f"{stem}_out.glb", dataset, vertices, faces, options.obj_frame)
        views = dataset.turntable(24).to(device)
        pictures = draw(dataset, vertices.expand(len(views), -1, -1), faces, views, 128).cpu()
        rows = [list(pictures[i:i + 6]) for i in range(0, len(pictures), 6)]
        sheet(rows).save(f"{stem}_out.png")
        write_turntable(f"{stem}_out.gif", dataset, vertices, faces)
        _say(f"{path} -> {stem}_out.obj, .glb, .png (24 views), .gif")
    if together:
        names = [os.path.basename(path) for path in paths]
        _contact_sheets(options.sample_dir, model, names, images, meshes)
        _page(options, model, names, stems, images, meshes)
        disk.write_json(os.path.join(options.sample_dir, LIST), {
            "images": {stem: os.fsencode(path).decode("utf-8", "replace") for stem, path in zip(stems, paths)},
            "left_out": {os.fsencode(path).decode("utf-8", "replace"): said for path, said in left_out.items()},
            "count": len(paths), "count_left_out": len(left_out)})
        _say(f"all together: {os.path.join(options.sample_dir, PAGE)}, {', '.join(together[:-1])}")
    return 0


def _of_split(data, split, count):
    """Names and images of a split, spread evenly over its objects, and over the views of these."""
    objects = np.linspace(0, data.num_objects - 1, min(count, data.num_objects)).astype(int)
    owners = data.all_objects().numpy()
    chosen = [np.flatnonzero(owners == o) for o in objects]
    chosen = [numbers[7 * k % len(numbers)] for k, numbers in enumerate(chosen)]
    names = [f"{data.class_ids[data.object_class[o]]}_{split}_{o:04d}_image_{n:05d}" for o, n in zip(objects, chosen)]
    return names, list(data.gather(chosen).images)


def _say(line):
    """Print, whatever bytes a file name has."""
    print(line.encode("utf-8", "replace").decode())


# Of a folder: one page, and sheets of at most so many images.
PAGE, SHEET, ON_A_SHEET, LIST = "reconstructions.html", "reconstructions{}.png", 60, "reconstructions.json"


def _sheets(count):
    pages = math.ceil(count / ON_A_SHEET)
    return [SHEET.format(f"_{i + 1}" if pages > 1 else "") for i in range(pages)]


def _contact_sheets(folder, model, names, images, meshes, size=96, blocks=2):
    """Input and mesh from four sides for each image, `blocks` of them in a row, under its name."""
    looks = model.dataset.turned(model.dataset.turntable(4), 1 / 12).to(model.device)
    width, height = (1 + len(looks)) * size + 12, size + 20
    for page, file in enumerate(_sheets(len(names))):
        mine = range(page * ON_A_SHEET, min((page + 1) * ON_A_SHEET, len(names)))
        paper = Image.new("RGB", (min(blocks, len(mine)) * width, math.ceil(len(mine) / blocks) * height), "white")
        pen, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
        for at, i in enumerate(mine):
            views = draw(model.dataset, meshes[i].expand(len(looks), -1, -1), model.faces, looks, size).cpu()
            x, y = at % blocks * width + 6, at // blocks * height
            name = names[i].encode("utf-8", "replace").decode()
            pen.text((x, y + 4), name if len(name) <= 60 else name[:57] + "...", "black", font)
            for k, picture in enumerate([on_paper(images[i], size), *views]):
                paper.paste(to_image(picture), (x + k * size, y + 20))
        with disk.written_whole(os.path.join(folder, file), "wb") as out:
            paper.save(out, "PNG", optimize=True)


def _page(options, model, names, stems, images, meshes):
    labels = {"OBJ": "obj", "GLB": "glb", "views": "png", "turntable": "gif"}
    items = [gallery.Item(name, to_image(straight(image)), people_mesh(model.dataset, vertices, model.faces)[0],
                          {label: f"{stem}_out.{ending}" for label, ending in labels.items()})
             for name, stem, image, vertices in zip(names, stems, images, meshes)]
    faces = people_mesh(model.dataset, meshes[0], model.faces)[1]
    run = os.path.basename(os.path.normpath(model.source))
    told = f"Step {model.step}, {options.eval_flag} checkpoint." if model.step is not None else ""
    text = gallery.page(f"Reconstructions by {run}", f"{len(items)} images. {told}", items, faces)
    with disk.written_whole(os.path.join(options.sample_dir, PAGE)) as out:
        out.write(text)


def interpolation(options, device):
    """Shapes between those of two images: a strip, an animation, a mesh of each step."""
    if not options.load_im or not options.load_im1:
        raise InputError("--mode=interpolation needs --load_im and --load_im1, two images")
    model = open_model(options, device)
    dataset, size = model.dataset, 144
    images = load_pair(options.load_im, options.load_im1, model.options["img_size"], dataset.channels,
                       (options.mask, options.mask1))
    first, last = model.encode(images)
    disk.make_folder(options.sample_dir, "--sample_dir")

    def shapes(count):
        t = torch.linspace(0, 1, count, device=device)[:, None]
        return model.decode((1 - t) * first + t * last)

    steps = shapes(options.steps)
    blank = torch.ones(3, size, size)
    rows = []
    for row, view in enumerate(dataset.turned(dataset.turntable(4), 1 / 8)):
        pictures = draw(dataset, steps, model.faces, view.to(device).expand(len(steps), *view.shape), size).cpu()
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


def _distinct_stems(paths, taken=()):
    """A name for the results of each image: without its ending where that tells them apart, numbered
    where two would still write the same file, or one of those taken."""
    plain = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    taken, stems = set(taken), []
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
