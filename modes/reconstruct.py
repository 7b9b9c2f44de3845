"""`--mode=reconstruct`: predicts meshes from images."""
import math
import os

from PIL import Image, ImageDraw, ImageFont

import gallery
from engine import disk
from engine.arguments import Mode, integer
from errors import InputError
from images import list_images, load_input
from inference import need_model, open_model, open_split
from pictures import IMAGE, OUTPUT, on_paper, people_mesh, people_textures, sheet, straight, to_image, turned_around, \
    write_glb, write_obj, write_turntable
from readers.base import tell_left_out


def _read_images(paths, model, options):
    """(paths, images, {path: message}). With --skip_bad the last lists the images that cannot be used."""
    good, images, bad = [], [], {}
    for path in paths:
        try:
            images.append(load_input(path, model.options["img_size"], model.dataset.channels, options.mask))
            good.append(path)
        except InputError as error:
            if not options.skip_bad:
                more = "; --skip_bad leaves out such images" if len(paths) > 1 else ""
                raise InputError(f"{error}{more}") from None
            bad[path] = str(error)
    tell_left_out(list(bad.values()), _say)
    if not good:
        raise InputError(f"--skip_bad leaves no image of --load_im={options.load_im}")
    return good, images, bad


def run(options, device):
    """Write an OBJ, a GLB, a sheet of views and a turntable for each image; for a folder also contact sheets, a page of
    all, and `reconstructions.json`, which lists them and the images that --skip_bad left out."""
    left_out, of_split = {}, []
    need_model(options)
    folder = options.sample_dir
    if options.load_im:
        paths = list_images(options.load_im)
        if options.mask and len(paths) > 1:
            raise InputError(f"--mask is for one image, but --load_im={options.load_im} holds {len(paths)}")
        model = open_model(options, device)
        paths, images, left_out = _read_images(paths, model, options)
    else:
        if options.mask:
            raise InputError(f"--mask={options.mask} needs --load_im, one image; the images of a split have masks")
        model = open_model(options, device)
        data = open_split(model, options)
        paths, images = _of_split(data, options.n_images)
        of_split = list(data.left_out)
        _say(f"{len(paths)} images of {data.split}, without --load_im" + (
            f": {data.num_objects} objects, one image of each (of {len(data)} in all)"
            if len(paths) < options.n_images else ""))
    together = _sheets(len(paths)) + [LIST, PAGE] if len(paths) > 1 or os.path.isdir(options.load_im or "") else []
    stems = _distinct_stems(paths, together)
    ours = {os.path.join(folder, name) for stem in stems for name in _results(stem)}
    ours |= {os.path.join(folder, name) for name in together}
    there = [path for path in ours if options.load_im and os.path.dirname(os.path.realpath(path)) ==
             os.path.dirname(os.path.realpath(paths[0])) and os.path.exists(path)]
    if there:
        raise InputError(f"--sample_dir={folder} is the folder of the images, and {sorted(there)[0]} "
                         "would be overwritten; choose another folder")
    disk.make_folder(folder, "--sample_dir")
    dataset, meshes = model.dataset, []
    for path, stem, image in zip(paths, stems, images):
        prediction = model.predict(image[None])
        vertices, faces = prediction.vertices[0], prediction.faces
        texture = None if prediction.textures is None else prediction.textures[0]
        meshes.append((vertices, texture))
        stem = os.path.join(folder, stem)
        to_image(on_paper(image, 256)).save(f"{stem}.png")
        write_obj(f"{stem}_out.obj", dataset, vertices, faces, options.obj_frame, texture)
        write_glb(f"{stem}_out.glb", dataset, vertices, faces, options.obj_frame, texture)
        pictures = turned_around(dataset, vertices, faces, dataset.turntable(24), 128, texture).cpu()
        rows = [list(pictures[i:i + 6]) for i in range(0, len(pictures), 6)]
        sheet(rows).save(f"{stem}_out.png")
        write_turntable(f"{stem}_out.gif", dataset, vertices, faces, textures=texture)
        _say(f"{path} -> {stem}_out.obj, .glb, .png (24 views), .gif")
    if together:
        names = [os.path.basename(path) for path in paths]
        _contact_sheets(folder, model, names, images, meshes)
        _page(folder, options.eval_flag, model, names, stems, images, meshes)
        disk.write_json(os.path.join(folder, LIST), {
            "images": {stem: os.fsencode(path).decode("utf-8", "replace") for stem, path in zip(stems, paths)},
            "left_out": {os.fsencode(path).decode("utf-8", "replace"): said for path, said in left_out.items()},
            "left_out_of_split": of_split, "count": len(paths), "count_left_out": len(left_out) + len(of_split)})
        _say(f"all together: {os.path.join(folder, PAGE)}, {', '.join(together[:-1])}")
    return 0


def _of_split(data, count):
    """Names and images of a split, spread evenly over its objects and their views."""
    objects, chosen = data.spread(count)
    names = [f"{data.class_ids[data.object_class[o]]}_{data.split}_{o:04d}_image_{n:05d}"
             for o, n in zip(objects, chosen)]
    return names, list(data.gather(chosen).images)


def _say(line):
    """Print a line, even if a file name in it is not valid text."""
    print(line.encode("utf-8", "replace").decode())


# Written for a folder: one page, contact sheets of at most ON_A_SHEET images, and the list.
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
            vertices, texture = meshes[i]
            views = turned_around(model.dataset, vertices, model.faces, looks, size, texture).cpu()
            x, y = at % blocks * width + 6, at // blocks * height
            name = names[i].encode("utf-8", "replace").decode()
            pen.text((x, y + 4), name if len(name) <= 60 else name[:57] + "...", "black", font)
            for k, picture in enumerate([on_paper(images[i], size), *views]):
                paper.paste(to_image(picture), (x + k * size, y + 20))
        with disk.written_whole(os.path.join(folder, file), "wb") as out:
            paper.save(out, "PNG", optimize=True)


def _page(folder, flag, model, names, stems, images, meshes):
    labels = {"OBJ": "obj", "GLB": "glb", "views": "png", "turntable": "gif"}
    items = [gallery.Item(name, to_image(straight(image)), people_mesh(model.dataset, vertices, model.faces)[0],
                          {label: f"{stem}_out.{ending}" for label, ending in labels.items()},
                          _outwards(people_textures(model.dataset, texture), model.outward))
             for name, stem, image, (vertices, texture) in zip(names, stems, images, meshes)]
    faces = people_mesh(model.dataset, meshes[0][0], model.faces)[1][:, ::model.outward]
    run = os.path.basename(os.path.normpath(model.source))
    told = f"Step {model.step}, {flag} checkpoint." if model.step is not None else ""
    text = gallery.page(f"Reconstructions by {run}", f"{len(items)} images. {told}", items, faces)
    with disk.written_whole(os.path.join(folder, PAGE)) as out:
        out.write(text)


def _outwards(textures, outward):
    """Textures (F, T, T, T, 3) for faces whose corners are reversed where outward is -1. None for None."""
    return textures if textures is None or outward > 0 else textures.swapaxes(1, 3)


def _distinct_stems(paths, taken=()):
    """A name for the results of each image: the file name without its ending if that is unique, else with it; numbered
    if two images would still write the same file, or one in `taken`."""
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
    """The files that `reconstruct` writes for one image; the last two of a run with colours."""
    return [f"{stem}.png"] + [f"{stem}_out.{ending}" for ending in ("obj", "glb", "png", "gif")] + [
        f"{stem}_out_colours.{ending}" for ending in ("mtl", "png")]


MODE = Mode(run, "meshes from images: OBJ, GLB, views, turntable; for a folder a web page that shows all",
            taken_by_all=IMAGE, options={
    **OUTPUT, "n_images": dict(type=integer(1), default=24, help=(
        "without LOAD_IM: number of images of SPLIT to reconstruct, at most one per object"))})
