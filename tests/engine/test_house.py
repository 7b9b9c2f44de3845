"""Directions of imports: modes import libraries and never one another, no import goes up, and there is no circle."""
import ast
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "3D-GAN.py").exists())
ROOMS = ("engine", "gallery", "losses", "making", "metrics", "modes", "readers", "shapes")
# From bottom to top. A module imports only from modules before it; engine, readers and modes also from themselves.
FLOORS = ("errors", "engine", "shapes", "gallery", "losses", "metrics", "models", "making", "readers", "datasets",
          "methods", "images", "pictures", "synthetic", "inference", "scoring", "training", "loop", "modes", "3D-GAN")


def files():
    """{dotted name: path} of the modules of this program."""
    found = {path.stem: path for path in ROOT.glob("*.py")}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path, known):
    """The names of the modules of this program that a module imports anywhere in its code."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            deeper = {f"{base}.{alias.name}" for alias in node.names} & known
            result |= deeper | ({base} if len(deeper) < len(node.names) else set())
    return result & known - {name}


@pytest.fixture(scope="module")
def arrows():
    found = files()
    return {name: imported(name, path, set(found)) for name, path in found.items()}


def test_there_are_few_rooms_at_the_top(arrows):
    assert len([name for name in arrows if "." not in name and name not in ROOMS]) <= 14
    assert {name.partition(".")[0] for name in arrows} == set(FLOORS)


def test_no_arrow_goes_up(arrows):
    floor = {room: i for i, room in enumerate(FLOORS)}
    up = [(name, other) for name, others in arrows.items() for other in others
          if floor[other.partition(".")[0]] > floor[name.partition(".")[0]]]
    assert not up


def test_modes_import_libraries_and_never_one_another(arrows):
    modes = {name for name in arrows if name.startswith("modes.")}
    assert len(modes) == 10
    assert not [(name, other) for name in modes for other in arrows[name] if other.startswith("modes")]
    assert not [name for name, others in arrows.items() if name != "3D-GAN" and name not in modes and
                any(other.startswith("modes") for other in others)]


def test_there_is_no_circle(arrows):
    left = dict(arrows)
    while left:
        ends = [name for name, others in left.items() if not others & set(left)]
        assert ends, f"a circle among {sorted(left)}"
        for name in ends:
            del left[name]


def test_the_script_asks_no_dataset_by_name():
    from datasets import DATASETS
    strings = {node.value for node in ast.walk(ast.parse((ROOT / "3D-GAN.py").read_text()))
               if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not strings & set(DATASETS)


def test_imports_are_found(tmp_path):
    """`imported` finds every form of import, so that the tests above can fail."""
    path = tmp_path / "a.py"
    path.write_text("import numpy\nfrom modes import b, c\ndef f():\n    from .base import X\n")
    assert imported("readers.a", path, {"modes", "modes.b", "readers.base", "numpy2"}) == \
        {"modes", "modes.b", "readers.base"}
