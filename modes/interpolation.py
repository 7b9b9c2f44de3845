"""`--mode=interpolation`: interpolates between the shapes of two images."""
import os

import torch

from engine import disk
from engine.arguments import Mode, integer
from errors import InputError
from images import load_pair
from inference import need_model, open_model
from pictures import IMAGE, OUTPUT, draw, on_paper, sheet, write_gif, write_glb, write_obj


def run(options, device):
    """Write a strip, an animation and the mesh of each step."""
    need_model(options)
    folder = options.sample_dir
    if not options.load_im or not options.load_im1:
        raise InputError("--mode=interpolation needs --load_im and --load_im1, two images")
    model = open_model(options, device)
    dataset, size = model.dataset, 144
    images = load_pair(options.load_im, options.load_im1, model.options["img_size"], dataset.channels,
                       (options.mask, options.mask1))
    ends = model.codes(images)
    disk.make_folder(folder, "--sample_dir")

    def shapes(count):
        """Vertices and, of a run with colours, textures of codes between the two, (count, ...) each."""
        t = torch.linspace(0, 1, count, device=device)[:, None]
        codes, colour_codes = (None if two is None else (1 - t) * two[:1] + t * two[1:] for two in ends)
        return model.decode(codes), model.colour(colour_codes)

    steps, textures = shapes(options.steps)
    blank = torch.ones(3, size, size)
    rows = []
    for row, view in enumerate(dataset.turned(dataset.turntable(4), 1 / 8)):
        pictures = draw(dataset, steps, model.faces, view.to(device).expand(len(steps), *view.shape), size,
                        textures=textures).cpu()
        start, end = [on_paper(i, size) for i in images] if row == 0 else [blank, blank]
        rows.append([start, *pictures, end])
    stem = os.path.join(folder, "interpolation")
    titles = ["from"] + [f"{i / (len(steps) - 1):.2f}" for i in range(len(steps))] + ["to"]
    sheet(rows, titles).save(f"{stem}.png")
    for i, vertices in enumerate(steps):
        texture = None if textures is None else textures[i]
        write_obj(f"{stem}_{i:02d}.obj", dataset, vertices, model.faces, options.obj_frame, texture)
        write_glb(f"{stem}_{i:02d}.glb", dataset, vertices, model.faces, options.obj_frame, texture)
    frames, textures = (None if there is None else torch.cat([there, there.flip(0)]) for there in shapes(24))
    write_gif(f"{stem}.gif", draw(dataset, frames, model.faces, dataset.turntable(len(frames)).to(frames), 160,
                                  textures=textures))
    print(f"wrote {stem}.png, .gif, _00 ... _{len(steps) - 1:02d}.obj, .glb")
    return 0


MODE = Mode(run, "interpolates between the shapes of two images", options={
    **OUTPUT, "mask1": dict(metavar="PNG", help="mask of LOAD_IM1"),
    "steps": dict(type=integer(2), default=6, help="number of shapes, both ends included")},
    taken_by_all={**IMAGE, "load_im1": dict(metavar="PATH", help="the image to interpolate to")})
