"""Draw the pictures of README.md.

    python docs/pictures.py                             docs/synthetic.png, the built-in classes
    python docs/pictures.py runs/demo results/demo      the pictures of modes, from the results of train.sh

docs/compare.png and docs/turntable.gif are copies of results of train.sh; docs/dashboard.png is a screenshot by
tests/programs/browser_dashboard.py.
"""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests", "programs")]

from PIL import Image  # noqa: E402

import synthetic  # noqa: E402
from browser import Browser, find  # noqa: E402
from datasets import CVPR18  # noqa: E402
from pictures import on_paper, sheet  # noqa: E402


def keep(path, name, width, colours=96):
    """Save a picture as docs/<name>.png, shrunk to a width and, unless `colours` is 0, reduced to that many colours."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        if colours:
            picture = picture.quantize(colours, dither=Image.Dither.NONE)
        picture.save(os.path.join(HERE, f"{name}.png"), optimize=True)


def classes(folder):
    synthetic.make_synthetic(folder, n_train=8, n_val=1, n_test=1)
    rows = []
    for class_id in synthetic.MAIN_CLASSES:
        data = CVPR18(folder, [class_id], "train", folder + "/cache", say=lambda line: None)
        images = data.gather([24 * i + (3 + 5 * i) % 24 for i in range(8)]).images
        rows.append([on_paper(image, 96) for image in images])
    sheet(rows).save(os.path.join(HERE, "synthetic.png"), optimize=True)


def modes(runs, results, folder):
    """MMD, t_SNE, interpolation, and the page of reconstruct in a browser."""
    both = [os.path.join(runs, name) for name in ("AE", "featGAN")]
    inputs = os.path.join(results, "inputs")
    names = sorted(os.listdir(inputs))

    def run(mode, *more):
        subprocess.run([sys.executable, os.path.join(ROOT, "3D-GAN.py"), f"--mode={mode}", "--sample_dir", folder,
                        *more], check=True)
    run("MMD", "--runs", *both)
    keep(f"{folder}/MMD_test.png", "mmd", 640)
    run("t_SNE", "--runs", *both)
    keep(f"{folder}/t_SNE_val.png", "t_sne", 560, colours=None)
    run("interpolation", "--ckpt_dir", both[1], "--load_im", os.path.join(inputs, names[0]), "--load_im1",
        os.path.join(inputs, names[2]))
    keep(f"{folder}/interpolation.png", "interpolation", 800)
    run("reconstruct", "--ckpt_dir", both[1], "--load_im", inputs)
    browser = Browser(find(), 1100, 720)
    browser.open(f"file://{os.path.abspath(folder)}/reconstructions.html")
    browser.frame()
    browser.screenshot(f"{folder}/page.png")
    browser.close()
    keep(f"{folder}/page.png", "reconstructions", 800, colours=None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        modes(*sys.argv[1:], scratch) if sys.argv[1:] else classes(scratch)
