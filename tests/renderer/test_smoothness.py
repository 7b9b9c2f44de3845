"""neural_renderer.smoothness: the kernel, its gradient, and its plain torch version."""
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import neural_renderer as nr
from neural_renderer.smooth import _smoothness, plain


def wings_of(seed, vertices, edges):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(vertices, generator=g)[:4] for _ in range(edges)], 1)


def by_hand(vertices, wings):
    """Smoothness from perpendiculars in NumPy, without eps; exact unless edges are tiny."""
    total = np.zeros(len(vertices))
    for n, mesh in enumerate(vertices.double().numpy()):
        for a, b, c, d in wings.T.tolist():
            along = mesh[b] - mesh[a]
            left, right = (mesh[k] - mesh[a] - along * (along @ (mesh[k] - mesh[a])) / (along @ along) for k in (c, d))
            total[n] += (left @ right / (np.linalg.norm(left) * np.linalg.norm(right)) + 1) ** 2
    return total


@pytest.mark.parametrize("batch", [1, 5, 16, 33])
def test_equals_perpendiculars_drawn_by_hand(batch):
    vertices = torch.randn(batch, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
    wings = wings_of(batch, 12, 20)
    assert np.allclose(nr.smoothness(vertices, wings, eps=1e-14).numpy(), by_hand(vertices, wings), rtol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_value_and_gradient_are_those_of_torch(dtype, tolerance):
    g = torch.Generator().manual_seed(3)
    vertices = torch.randn(19, 30, 3, generator=g).to(dtype)
    vertices[4, :15] = vertices[4, 15:]    # edges without length, faces without area
    wings, weight = wings_of(3, 30, 50), torch.randn(19, generator=g).to(dtype)
    results = []
    for function in (nr.smoothness, plain):
        leaf = vertices.clone().requires_grad_()
        value = function(leaf, wings)
        results.append((value.detach(), *torch.autograd.grad((value * weight).sum(), leaf)))
    for ours, theirs in zip(*results):
        assert torch.isfinite(ours).all()
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_gradient_by_finite_differences():
    vertices = torch.randn(3, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert gradcheck(lambda v: nr.smoothness(v, wings_of(1, 8, 9)), vertices)


def test_batch_is_its_members_and_repeats_to_the_bit():
    vertices = torch.randn(21, 40, 3, generator=torch.Generator().manual_seed(2))
    wings = wings_of(2, 40, 60)
    whole = nr.smoothness(vertices, wings)
    assert torch.equal(whole, torch.cat([nr.smoothness(v[None], wings) for v in vertices]))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(whole, nr.smoothness(vertices, wings))
    finally:
        torch.set_num_threads(before)


def test_operator_is_one_that_torch_can_compile():
    vertices = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(4), requires_grad=True)
    torch.library.opcheck(_smoothness, (vertices, wings_of(4, 8, 5), 1e-6))


def test_nothing_is_perfectly_smooth():
    assert nr.smoothness(torch.zeros(0, 5, 3), wings_of(0, 5, 3)).shape == (0,)
    assert torch.equal(nr.smoothness(torch.rand(2, 5, 3), torch.zeros(4, 0, dtype=torch.int64)), torch.zeros(2))


@pytest.mark.parametrize("vertices, wings, error, words", [
    (torch.rand(5, 3), wings_of(0, 5, 2), ValueError, r"vertices must be a float tensor of shape \(B, V, 3\)"),
    (torch.rand(1, 5, 3), torch.rand(4, 2), ValueError, r"wings must be an integer tensor of shape \(4, E\)"),
    (torch.rand(1, 5, 3), torch.zeros(3, 2, dtype=torch.int64), ValueError, r"got int64 of shape \(3, 2\)"),
    (torch.rand(1, 5, 3), torch.full((4, 1), 5), IndexError, r"indices into the 5 vertices, got 5 \.\.\. 5"),
    (torch.rand(1, 5, 3), torch.full((4, 1), -1), IndexError, r"got -1 \.\.\. -1"),
    (torch.zeros(1, 1, 3).expand(1, 2 ** 31, 3), wings_of(0, 5, 2), ValueError, r"below 2\^31, got 2147483648")])
def test_wrong_arguments_are_named(vertices, wings, error, words):
    with pytest.raises(error, match=words):
        nr.smoothness(vertices, wings)
