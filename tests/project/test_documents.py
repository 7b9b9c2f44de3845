"""The documents: links are valid, commands parse, and the README stays on one page."""
import re
import shlex
from pathlib import Path

import neural_renderer
import pytest
from command import script

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cuda/*.md"), *ROOT.glob("cuda/docs/*.md")])


def anchors(path):
    """The anchors that code hosts make from the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(path):
    """The arguments of every call of the program in a document."""
    text = path.read_text()
    shown = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    shown += re.findall(r"`(python 3D-GAN.py [^`]+)`", text)
    return [shlex.split(line.partition("3D-GAN.py")[2], comments=True) for line in shown if "3D-GAN.py" in line]


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_parse(path):
    program = script()
    for arguments in commands(path):
        if "--help" in arguments or "--version" in arguments:
            continue
        program.parse(arguments)  # exits with 2 if an option is unknown or refused


def test_there_is_one_version(capsys):
    with pytest.raises(SystemExit) as end:
        script().parse(["--version"])
    name, version = capsys.readouterr().out.split()
    assert end.value.code == 0 and name == "learn3D" and neural_renderer.__version__.endswith(f"+learn3d.{version}")
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version


def test_commands_are_found():
    """Otherwise the test above could not fail."""
    assert len(commands(ROOT / "README.md")) >= 11 and len(commands(ROOT / "docs" / "runs.md")) >= 5


def test_files_that_documents_name_exist():
    for path in DOCUMENTS:
        for name in re.findall(r"`((?:benchmarks|tests|engine|modes|readers|docs|cuda)/[\w./-]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"
