"""The four example programs of the renderer, run small, and the teapot they share."""
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "cuda" / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A function that runs an example and returns (what it printed, its pictures)."""
    def run(number, *arguments):
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.delitem(sys.modules, "common", raising=False)
        out = tmp_path / "out.gif"
        monkeypatch.setattr(sys, "argv", [f"example{number}.py", "--out", str(out), *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"example{number}.py"), run_name="__main__")
        monkeypatch.delitem(sys.modules, "common", raising=False)
        with Image.open(out) as animation:
            frames = []
            for i in range(animation.n_frames):
                animation.seek(i)
                frames.append(np.asarray(animation.convert("RGB")).astype(int))
        return capsys.readouterr().out, frames
    return run


def figures(text):
    return [float(v) for v in re.findall(r"-?\d+\.\d+", text)]


def test_turntable(run):
    _, frames = run(1, "--steps", 4, "--size", 40)
    assert len(frames) == 4 and frames[0].shape == (40, 40, 3)
    for frame in frames:
        assert 0.1 < (frame < 250).any(-1).mean() < 0.7
    covered = [(f < 250).any(-1) for f in frames]
    columns = [np.flatnonzero(c.any(0)) for c in covered]
    # The spout is right at first, towards the viewer or away a quarter later, then left.
    assert np.ptp(columns[1]) < np.ptp(columns[0]) and np.ptp(columns[3]) < np.ptp(columns[2])
    assert (covered[0] != covered[2][:, ::-1]).mean() < 0.06 < (covered[0] != covered[2]).mean()


def test_deforming_a_sphere(run):
    overlaps = [figures(run(2, "--steps", steps, "--size", 32)[0])[0] for steps in (1, 40)]
    assert overlaps[0] < 0.85 and overlaps[1] > overlaps[0] + 0.05


def test_textures(run):
    differences = [figures(run(3, "--steps", steps, "--size", 24)[0])[0] for steps in (1, 40)]
    assert differences[1] < 0.7 * differences[0]


def test_finding_a_camera(run):
    text, frames = run(4, "--steps", 90, "--size", 64)
    found, hidden = np.split(np.array(figures(text)), 2)
    assert np.linalg.norm(found - hidden) < 0.3
    left, right = np.split(frames[-1], 2, axis=1)
    assert np.abs(left - right).mean() < 4 < 20 < np.abs(left - frames[0][:, 64:]).mean()


@pytest.mark.parametrize("arguments", [("--steps", 0), ("--size", "large"), ("--out", "/nowhere/a.gif")])
def test_wrong_options_end_before_the_work(arguments, run, capsys):
    with pytest.raises(SystemExit) as end:
        run(1, *arguments)
    assert end.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_the_teapot_is_as_described():
    vertices, faces = (t.numpy() for t in runpy.run_path(str(EXAMPLES / "common.py"))["teapot"]())
    assert vertices.shape == (1316, 3) and faces.shape == (2464, 3)
    assert np.abs(vertices).max() < 1.2 and vertices[:, 0].argmax() > 1000, "the spout's tip, on +x"
    apart = trimesh.Trimesh(vertices, faces).split(only_watertight=False)
    body, *tubes = sorted(apart, key=lambda part: -len(part.faces))
    assert body.is_watertight and body.volume > 1
    for tube in tubes:
        assert len(tube.faces) > 200 and tube.volume > 0.02  # open ends, but near enough
