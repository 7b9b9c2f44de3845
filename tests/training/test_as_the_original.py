"""Details of the original program that change results, such as the order of operations and types."""
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from command import script
from datasets import NIPS17, Pascal3D
from losses import View
from methods import ViewPriorLearning

ROOT = Path(__file__).resolve().parents[2]


def test_the_view_discriminator_sees_the_fake_half_first():
    """Running statistics of batch normalisation are 0.9 times the old plus 0.1 times the new: the last half counts
    more."""
    torch.manual_seed(0)
    method = ViewPriorLearning(SimpleNamespace(disc_width=128), 3, 16)
    convolution, _, second, normalised = method.discriminator.convBlocks[:4]
    rendered, other = torch.rand(2, 4, 16, 16)
    poses, others = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    step = SimpleNamespace(rendered=rendered, poses=poses,
                           views={method.title: View(None, others, other)})

    def mean(silhouettes, views):
        planes = torch.nn.functional.one_hot(views, 3).float()[..., None, None].expand(-1, -1, 16, 16)
        seen = convolution(torch.cat([silhouettes[:, None], planes], 1))
        return second(torch.nn.functional.leaky_relu(seen, 0.2)).mean((0, 2, 3))
    with torch.no_grad():
        wanted = 0.09 * mean(other, others) + 0.1 * mean(rendered, poses)
        method.discriminator_losses(step)
    torch.testing.assert_close(normalised.running_mean, wanted)


def triangle(split, i):
    """An object for a writer."""
    vertices = torch.tensor([[-.4, -.3, -.2], [.5, -.3, .1], [0., .4, .2]])
    return vertices, torch.tensor([[0, 1, 2]]), torch.ones(1, 3)


def test_rotations_are_written_in_single_precision(tmp_path):
    """The original multiplies them by float32 vertices and fails for float64."""
    Pascal3D.writer(str(tmp_path), "02958343", {"train": 2, "val": 1}, triangle, None, 0, "")
    for part in ("train", "val"):
        with np.load(tmp_path / f"car_{part}.npz", allow_pickle=True) as found:
            assert found["rotation_matrices"].dtype == np.float32
            assert found["rotation_matrices"].shape[1:] == (3, 3)


def test_nips17_has_the_published_field_of_view():
    """A point whose distance from the axis is tan(14.9314 degrees) times its depth is on the border of the picture."""
    half = 2 * np.tan(np.radians(14.9314))
    camera = torch.tensor([[0.0, 0.0, 2.0]])
    point = torch.tensor([[[half, half, 0.0]]], dtype=torch.float64)
    found = NIPS17.project(point, camera)[0, 0, :2].abs()
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_table_of_differences_names_options_that_are_there():
    text = (ROOT / "docs" / "original.md").read_text()
    known = set(script().parser()._option_string_actions)
    named = set(re.findall(r"--\w+(?!\w|\*)", text))
    assert len(named) > 15 and named <= known, named - known
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 30 and all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
