"""Threads: in a team of torch's where it has one, of their own where not; the same to the bit, whoever else draws."""
import concurrent.futures
import os
import signal
import time

import neural_renderer as nr
import numpy as np
import pytest
import torch
import voxelization
from models import icosphere


def work(seed):
    """Bytes of silhouettes, their gradient, and voxels of eight crumpled spheres."""
    vertices, faces = (torch.from_numpy(np.asarray(part)) for part in icosphere(2))
    generator = torch.Generator().manual_seed(seed)
    crumpled = vertices[None].float() * 0.4 + 0.02 * torch.randn(8, len(vertices), 3, generator=generator)
    screens = nr.look_at(crumpled, nr.get_points_from_angles(2.732, 30.0, 15.0 * seed))
    screens = nr.perspective(screens, 15).requires_grad_()
    images = nr.rasterize_silhouettes(nr.vertices_to_faces(screens, faces.expand(8, -1, -1)), 32)
    (images * torch.rand(images.shape, generator=generator)).sum().backward()
    cells = voxelization.voxelize(nr.vertices_to_faces(crumpled + 0.5, faces.expand(8, -1, -1)), 16)
    assert 0 < images.sum() and screens.grad.any() and cells.any()
    return b"".join(part.detach().numpy().tobytes() for part in (images, screens.grad, cells))


@pytest.fixture
def four():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_as_one_thread(four):
    several = work(1)
    torch.set_num_threads(1)
    assert work(1) == several


def test_several_callers_at_once(four):
    alone = [work(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, [0, 1, 2, 3] * 5)) == alone * 5


def test_a_forked_process_does_not_wait_for_threads_it_has_lost(four):
    """torch itself would: of it the child calls only what has no threads."""
    vertices, faces = (np.asarray(part) for part in icosphere(2))
    triangles = torch.from_numpy(np.ascontiguousarray(0.4 * vertices[faces] + 0.5)).float()[None].repeat(8, 1, 1, 1)
    expected = voxelization.voxelize(triangles, 16).numpy().tobytes()
    torch.ones(1000, 1000).exp_()  # torch's threads exist by now
    child = os.fork()
    if not child:
        same = False
        try:
            same = voxelization.voxelize(triangles, 16).numpy().tobytes() == expected
        finally:
            os._exit(0 if same else 1)
    end = time.monotonic() + 60
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(ended[1]) == 0
