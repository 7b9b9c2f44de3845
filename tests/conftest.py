"""Import paths and fixtures for the whole suite.

There is one folder of tests for each room; `helpers` has modules that tests import, `programs` has programs.

The repository root is importable. `cuda/` is importable only if the two packages are not installed, so
that the tests test an installed build.
"""
import atexit
import functools
import importlib.util
import shutil
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "programs")]
if importlib.util.find_spec("neural_renderer") is None:
    sys.path.insert(0, str(ROOT / "cuda"))

# Only importable after the lines above.
import neural_renderer as nr  # noqa: E402
from command import CAR, SHORT, TINY, call, listing, process  # noqa: E402


# Files whose tests take more than 5 seconds each for the most part: processes that are killed, compilers, servers.
SLOW = {"test_fire.py", "test_distributed.py", "test_cli_stop.py", "test_cuda_kernels.py", "test_cuda_compiles.py",
        "test_sanitize.py", "test_fuzz.py", "test_dashboard.py", "test_packaging.py", "test_fourth_dataset.py"}


def pytest_collection_modifyitems(items):
    """The markers of pyproject.toml."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def shared_data():
    """A folder with real inputs beside the checkout, which is not part of the project."""
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
    """Runs the test once with the compiled kernels and once with the reference."""
    backend(request.param)
    return request.param


# ---- shared data and runs, made once when a test first needs them ----------------------------------

@functools.cache
def _data(base):
    folder = base / "data"
    made = process("--mode=make_dataset", "--data_dir", folder, "--class_ids", CAR, "--n_train=4",
                   "--n_val=2", "--n_test=2")
    assert made.returncode == 0, made.stderr
    return folder


@functools.cache
def _template(base):
    """An OBJ of 42 vertices; steps and checkpoints are a third of the usual size."""
    from models import icosphere
    nr.save_obj(base / "template.obj", *icosphere(1))
    return base / "template.obj"


@functools.cache
def _featgan(base):
    folder = base / "featGAN"
    done = process("--mode=train", "--data_dir", _data(base), "--ckpt_dir", folder, *TINY, *SHORT)
    return folder, done


@functools.cache
def _ae(base):
    folder = base / "AE"
    assert call("--mode=train", "--data_dir", _data(base), "--ckpt_dir", folder, "--lambda_adv=0",
                "--obj_dir", _template(base), *TINY, *SHORT) == 0
    return folder


@functools.cache
def _made(base):
    base.mkdir()
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    return base


def _base(factory):
    return _made(factory.getbasetemp() / "command_line")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for files of several tests; removed when the tests end."""
    return _base(tmp_path_factory)


@pytest.fixture
def tmp_path(tmp_path):
    """pytest's tmp_path, but checkpoints are removed after the test; pytest would keep those of three sessions."""
    yield tmp_path
    for path in tmp_path.rglob("*.pt"):
        path.unlink()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """CVPR18-layout files of cars: 4 to train, 2 to validate, 2 to test."""
    return _data(_base(tmp_path_factory))


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return _template(_base(tmp_path_factory))


@pytest.fixture(scope="session")
def featgan_process(tmp_path_factory):
    """The finished process that trained `featgan`."""
    return _featgan(_base(tmp_path_factory))[1]


@pytest.fixture(scope="session")
def featgan(tmp_path_factory):
    """The folder of a run of 6 steps with the published template, trained in a separate process."""
    folder, done = _featgan(_base(tmp_path_factory))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def ae(tmp_path_factory):
    """The folder of a run of 6 steps without a discriminator, with the small template."""
    return _ae(_base(tmp_path_factory))


@pytest.fixture
def refused(capsys, tmp_path):
    """A function that runs the script and returns the line 'error: ...' on stderr. The script must end with
    exit code 2 and this one line, without warnings, and must not change tmp_path. `usage`: argparse prints
    its usage before the line."""
    def check(*arguments, usage=False):
        capsys.readouterr()
        before = listing(tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code = call(*arguments)
        lines = capsys.readouterr().err.splitlines()
        assert code == 2, lines
        if usage:
            assert lines[0].startswith("usage: 3D-GAN.py"), lines
            lines = [line for line in lines if not line.startswith(("usage:", " "))]
            assert len(lines) == 1 and lines[0].startswith("3D-GAN.py: error: "), lines
        else:
            assert len(lines) == 1 and lines[0].startswith("error: "), lines
        hidden = DeprecationWarning, ResourceWarning  # Python does not show these by default
        assert not [str(w.message) for w in caught if not issubclass(w.category, hidden)]
        assert listing(tmp_path) == before, "something was left behind"
        return lines[0]
    return check


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A page in a real browser."""
    from browser import NAMES, Browser, find
    program = find()
    if program is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)}); on Debian: apt install chromium")
    browser = Browser(program)
    page = tmp_path_factory.mktemp("browser") / "page.html"
    page.write_text("<title>read</title>")
    browser.open(page.as_uri())
    readable = browser.run("document.title") == "read"
    if readable:
        yield browser
    browser.close()
    if not readable:
        pytest.skip(f"{program} cannot read files in {page.parent}, as one that comes as a snap cannot")
