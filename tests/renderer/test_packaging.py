"""The renderer's package does not link torch, and its source distribution is complete."""
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import neural_renderer
import pytest
import voxelization

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [neural_renderer, voxelization]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_nothing_of_torch_is_linked(package):
    """No library of torch, no symbol of its namespaces. pybind11's symbols are found, so the check sees names."""
    code = Path(importlib.util.find_spec(f"{package.__name__}._kernels").origin).read_bytes()
    for name in (b"libtorch", b"libc10", b"torch_python", b"N2at", b"N3c10", b"N5torch", b"_ZN2at", b"_ZN3c10"):
        assert name not in code
    assert b"pybind11" in code and (b"N2nr" in code or sys.platform == "win32")


def test_the_compiled_modules_work_without_torch():
    folder = Path(neural_renderer.__file__).parents[1]
    run = subprocess.run([sys.executable, ROOT / "tests" / "programs" / "torch_free.py", folder], capture_output=True,
                         text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "agree with their references" in run.stdout


def test_importing_needs_neither_the_examples_nor_pillow():
    program = "import neural_renderer, voxelization, sys; print(*{'PIL', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                         env={**os.environ, "PYTHONPATH": str(Path(neural_renderer.__file__).parents[1])})
    assert run.returncode == 0 and run.stdout.strip() == ""


def test_the_source_distribution_is_whole(tmp_path):
    pytest.importorskip("pybind11")
    pytest.importorskip("setuptools", minversion="64")
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "cuda"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run = subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tmp_path / "cuda", capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    archive, = (tmp_path / "cuda" / "dist").iterdir()
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    missing = {name.removeprefix("cuda/") for name in tracked.stdout.split()} - names
    assert not missing


@pytest.mark.parametrize("requirement", ["neural-renderer-pytorch", "neural_renderer_pytorch==1.1.3",
                                         "neural-renderer-pytorch>=1.1,<2"])
def test_requirements_for_the_original_are_met(requirement, tmp_path):
    """pip does not look for the original package."""
    if "site-packages" not in neural_renderer.__file__ or importlib.util.find_spec("pip") is None:
        pytest.skip("needs an installed wheel and pip")
    (tmp_path / "requirements.txt").write_text(requirement + "\n")
    run = subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--dry-run", "-r",
                          tmp_path / "requirements.txt"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "already satisfied" in run.stdout, run.stderr


def test_the_package_says_what_it_needs():
    project = tomllib.loads((ROOT / "cuda" / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11" and project["name"] == "neural-renderer-pytorch"
    if "site-packages" in neural_renderer.__file__:  # else it is used in place and has no wheel
        assert importlib.metadata.version(project["name"]) == neural_renderer.__version__
    assert [d.split(">=")[0] for d in project["dependencies"]] == ["numpy"]
    assert (ROOT / "cuda" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
