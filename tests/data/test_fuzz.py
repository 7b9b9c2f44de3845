"""A short run of tests/programs/fuzz.py: damaged files, and payloads that must not run."""
import os
import re
import subprocess
import sys

import pytest
from command import ROOT, environment


def fuzz(*arguments, **more):
    return subprocess.run([sys.executable, str(ROOT / "tests" / "programs" / "fuzz.py"), *map(str, arguments)],
                          text=True, capture_output=True, env=environment(), timeout=300, **more)


def test_damaged_files_end_in_our_errors(tmp_path):
    done = fuzz("--cases=500", "--keep", tmp_path / "escapes")
    assert done.returncode == 0, done.stdout + done.stderr
    cases, readers = map(int, re.search(r"(\d+) cases of (\d+) readers, 0 escapes", done.stdout).groups())
    assert cases >= 450 and readers >= 40 and not (tmp_path / "escapes").exists()


@pytest.mark.parametrize("harm, told", [("1 / 0", "ZeroDivisionError"), ("fuzz.time.sleep(9)", "more than 1 s"),
                                        ("bytearray(3 << 30)", "MemoryError")])
def test_it_notices_an_escape(harm, told, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / 'tests' / 'programs')!r})
import fuzz
from engine import checkpoints
fuzz.SECONDS, well = 1, fuzz.fuzz
def ill(*arguments):
    checkpoints.read = lambda path: {harm}
    return well(*arguments)
fuzz.fuzz = ill
sys.exit(fuzz.main(["--cases=6", "--only=checkpoint, its", "--keep", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(),
                          timeout=300)
    assert done.returncode == 1 and told in done.stdout, done.stdout + done.stderr
    assert "1 readers, 1 escapes" in done.stdout and len(os.listdir(tmp_path)) == 1


def test_the_kinds_that_people_bring_are_among_them(tmp_path):
    """A byte order mark, Latin-1, comments, a concave polygon: read as they are meant, before they are damaged."""
    import neural_renderer as nr
    from fuzz_readers import MTL_OF_PEOPLE, OBJ_OF_PEOPLE, picture, whole_files
    for name, content in (("a.obj", OBJ_OF_PEOPLE), ("a.mtl", MTL_OF_PEOPLE), ("a.png", picture())):
        (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning):
        vertices, faces, textures = nr.load_obj(tmp_path / "a.obj", False, 1, True)
    assert len(vertices) == 6 and len(faces) == 5 and textures[:4].view(4, 3).tolist() == [[1, 0, 0]] * 4
    files = {reader.name: reader.files for reader in whole_files()}
    assert b"KHR_materials_unlit" in files["meshes of people"]["looks.glb"]
    assert {"nothing.png", "one_pixel.png"} <= set(files["image"])
