"""Threads of the kernels, from torch's OpenMP or their own: results are bit for bit the same, with several callers too.
"""
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import neural_renderer as nr
import pytest
import torch
import voxelization
from command import ROOT, environment
from models import icosphere


def work(seed):
    """Bytes of silhouettes, their gradient, and voxels of eight crumpled spheres."""
    vertices, faces = icosphere(2)
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


@pytest.mark.parametrize("before", [True, False], ids=["used before", "first used there"])
def test_a_forked_process_does_not_wait_for_threads_it_has_lost(before):
    """torch itself would wait, so the child calls only torch functions without threads."""
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT / 'tests')!r})
import conftest, torch, voxelization
from models import icosphere
torch.set_num_threads(4)
torch.ones(1000, 1000).exp_()  # torch's threads exist by now
vertices, faces = icosphere(2)
triangles = (0.4 * vertices[faces] + 0.5).float()[None].repeat(8, 1, 1, 1)
def told(name):
    open(os.path.join({{}}, name), "wb").write(voxelization.voxelize(triangles, 16).numpy().tobytes())
if {before}:
    told("before")
if os.fork() == 0:
    told("child")
    os._exit(0)
code = os.waitstatus_to_exitcode(os.wait()[1])
told("parent")
sys.exit(code)
"""
    with tempfile.TemporaryDirectory() as folder:
        running = subprocess.Popen([sys.executable, "-c", code.replace("{}", repr(folder))], start_new_session=True,
                                   env=environment(), stderr=subprocess.PIPE, text=True)
        try:
            _, said = running.communicate(timeout=60)
        finally:  # a child that hangs, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        assert running.returncode == 0, said
        parent = Path(folder, "parent").read_bytes()
        assert any(parent) and Path(folder, "child").read_bytes() == parent
