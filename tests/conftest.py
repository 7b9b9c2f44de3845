"""Import paths and fixtures for the whole suite.

The repository root is importable; `cuda/` only where the two packages are not installed, so that an
installed build is the one that gets tested.
"""
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("neural_renderer") is None:
    sys.path.insert(0, str(ROOT / "cuda"))

import neural_renderer as nr  # noqa: E402  (only importable after the lines above)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real inputs beside the checkout; it is not part of the product."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: real inputs are not shipped with the product")
    return folder


@pytest.fixture
def backend():
    """A function that chooses the kernels for the rest of the test: 'compiled' or 'reference'."""
    yield nr.set_backend
    nr.set_backend(None)


@pytest.fixture(params=["compiled", "reference"])
def each_backend(request, backend):
    """The test runs once on each kind of kernels."""
    backend(request.param)
    return request.param
