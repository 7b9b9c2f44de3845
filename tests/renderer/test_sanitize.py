"""The kernels under sanitizers, in short (tests/programs/sanitize.py)."""
import subprocess
import sys

import pytest
from command import ROOT


def sanitize(*arguments):
    return subprocess.run([sys.executable, str(ROOT / "tests" / "programs" / "sanitize.py"), "--no_tests", *arguments],
                          capture_output=True, text=True, timeout=300)


def test_random_meshes():
    done = sanitize("--cases=150", "--seed=50000")
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "300 meshes drawn, voxelised and smoothed\n"


def test_unknown_sanitizers_are_refused():
    done = sanitize("--sanitizer=nonsense")
    assert done.returncode == 3 and "has no sanitizer nonsense" in done.stdout
