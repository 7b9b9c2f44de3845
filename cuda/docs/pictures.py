"""Draw conventions.png and examples.png. Needs matplotlib and the GIFs of the four examples.

    python cuda/docs/pictures.py FOLDER_OF_GIFS
"""
import os
import sys

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = os.path.dirname(os.path.abspath(__file__))
INK, RED, GREEN, BLUE, PALE = "#333333", "#c0392b", "#2e8b57", "#2c5aa0", "#dbe4f0"


def arrow(axes, start, end, colour, text="", shift=(0, 0)):
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=colour, lw=1.6, shrinkA=0, shrinkB=0))
    axes.text(end[0] + shift[0], end[1] + shift[1], text, color=colour, ha="center", va="center")


def from_above(axes):
    axes.set_title("get_points_from_angles, from above (+y)")
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color=INK, ls=":"))
    arrow(axes, (0, 0), (0.55, 0), RED, "x", (0.12, 0))
    arrow(axes, (0, 0), (0, -0.55), BLUE, "z", (0, -0.12))
    for azimuth in range(0, 360, 90):
        at = np.array([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
        axes.plot(*at, "o", color=INK)
        arrow(axes, at, 0.72 * at, INK)
        axes.text(*((1.15 + 0.3 * abs(at[0])) * at), f"azimuth {azimuth}°", ha="center", va="center")
    axes.text(0, -1.75, "elevation lifts the eye, to +y at 90°", ha="center")


def from_the_side(axes):
    axes.set_title("camera space, from the side")
    arrow(axes, (-1.2, 0), (1.35, 0), BLUE, "z, depth", (0.3, 0))
    arrow(axes, (-1.2, 0), (-1.2, 0.8), GREEN, "y", (0, 0.14))
    axes.plot(-1.2, 0, "o", color=INK)
    axes.text(-1.2, -0.22, "eye", ha="center")
    for sign in (1, -1):
        axes.plot([-1.2, 1], [0, sign], color=INK, lw=1)
    for z, name in ((-0.85, "near"), (1, "far")):
        half = (z + 1.2) / 2.2
        axes.plot([z, z], [-half, half], color=INK, ls="--", lw=1)
        axes.text(z, -half - 0.2, name, ha="center")
    turn = np.linspace(0, np.arctan2(1, 2.2), 20)
    axes.plot(-1.2 + 1.2 * np.cos(turn), 1.2 * np.sin(turn), color=RED)
    axes.text(0.5, 0.27, "viewing_angle,\nhalf the field", color=RED, ha="center", va="center")
    axes.text(0, -1.75, "x = up × z: a right-handed scene is seen mirrored", ha="center")


def picture(axes):
    axes.set_title("picture: NDC, rows and columns (N = 4)")
    for k in range(5):
        axes.plot([-1, 1], [k / 2 - 1] * 2, color="#999999", lw=0.8)
        axes.plot([k / 2 - 1] * 2, [-1, 1], color="#999999", lw=0.8)
    for k in range(4):
        axes.text(-1.25, 0.75 - k / 2, f"row {k}", ha="center", va="center")
        axes.text(-0.75 + k / 2, 1.15, f"col {k}", ha="center", va="center")
    axes.plot(*np.meshgrid(np.arange(4) / 2 - 0.75, np.arange(4) / 2 - 0.75), ".", color=INK, ms=4)
    arrow(axes, (0, 0), (1.25, 0), RED, "x", (0.12, 0))
    arrow(axes, (0, 0), (0, 0.9), GREEN, "y", (0.14, 0))
    axes.text(-1, -1.2, "(-1, -1)", ha="center")
    axes.text(1, -1.2, "(1, -1)", ha="center")
    axes.text(0, -1.85, "centre of column i: x = (2i + 1 - N) / N\nof row r: y = (N - 1 - 2r) / N", ha="center")


def face(axes):
    axes.set_title("face, as the screen shows its front")
    corners = np.array([[-0.9, -0.8], [0.9, -0.55], [0.1, 0.8]])
    axes.add_patch(plt.Polygon(corners, color=PALE))
    axes.add_patch(plt.Polygon(corners, fill=False, color=INK))
    for k, (corner, name) in enumerate(zip(corners, ("v0\ntexel (T-1, 0, 0)", "v1\ntexel (0, T-1, 0)",
                                                     "v2\ntexel (0, 0, T-1)"))):
        axes.text(corner[0], corner[1] + (-0.28, -0.28, 0.25)[k], name, ha="center", va="center")
    turn = np.radians(np.linspace(-60, 210, 40))
    axes.plot(0.36 * np.cos(turn), -0.2 + 0.36 * np.sin(turn), color=RED)
    tip = np.array([0.28 * np.cos(turn[-1]), -0.2 + 0.28 * np.sin(turn[-1])])
    arrow(axes, tip, tip + [0.07, -0.12], RED)
    axes.text(0, -0.2, "counter-\nclockwise", color=RED, ha="center", va="center", fontsize=8)
    axes.text(0, -1.75, "light's normal: (v0 - v1) × (v2 - v1)", ha="center")


def conventions():
    figure, all_axes = plt.subplots(2, 2, figsize=(10, 9), dpi=80)
    for axes, draw in zip(all_axes.flat, (from_above, from_the_side, picture, face)):
        axes.set(xlim=(-1.85, 1.85), ylim=(-1.9, 1.35), aspect="equal")
        axes.axis("off")
        draw(axes)
    figure.tight_layout()
    figure.savefig(os.path.join(HERE, "conventions.png"))


def examples(folder, height=112):
    """Draw a row of frames of each GIF."""
    rows = []
    for k in range(1, 5):
        with Image.open(os.path.join(folder, f"example{k}.gif")) as animation:
            row = []
            for part in np.arange(6) / 6 if k == 1 else (0.02, 0.2, 0.62):
                animation.seek(int(part * animation.n_frames))
                frame = animation.convert("RGB")
                row.append(frame.resize((frame.width * height // frame.height, height)))
        rows.append(np.hstack(row))
    Image.fromarray(np.vstack(rows)).quantize(128).save(os.path.join(HERE, "examples.png"), optimize=True)


if __name__ == "__main__":
    conventions()
    examples(sys.argv[1])
