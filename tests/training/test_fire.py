"""A short run of tests/programs/fire.py: killed, frozen and failing runs end like an undisturbed one."""
import re
import subprocess
import sys

import pytest
from command import ROOT, environment


@pytest.mark.parametrize("where", [(), ("--beside",)], ids=["between the steps", "beside them"])
def test_a_few_kills_and_failing_writes(data, where):
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "programs" / "fire.py"), "--kills=3", "--faults=3",
                           "--disks=1", "--data_dir", data, *where], capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(number) for name, number in re.findall(r"^(.+): (\d+)", done.stdout, re.M)}
    assert counts["killed"] == 3 and counts["runs equal after kills"] >= 1
    assert counts["runs equal after a failing touch"] == 3 and counts["wrong"] == 0
    assert sum(n for name, n in counts.items() if name.startswith("failing touches, exit")) == 3
    assert sum(map(int, re.findall(r" (\d+)", re.search("killed in:(.*)", done.stdout)[1]))) == 3


def test_it_notices_a_difference(data):
    """It fails if resumed runs have other random numbers."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / 'tests' / 'programs')!r})
import fire
from engine import runs
runs.set_rng_state = lambda state: None
sys.exit(fire.main(["--kills=0", "--faults=2", "--disks=0", "--data_dir", {str(data)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(),
                          timeout=300)
    assert done.returncode == 1 and "WRONG: " in done.stdout, done.stdout + done.stderr
    assert "/models/" in done.stdout
