"""Does the code keep to its measures?  Rooms, lengths, imports in circles, and what tests may import."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "snp").rglob("*.py"))
FACE = {"__init__", "__main__"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it, with the names it takes from them."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_a_dozen_rooms_and_four_files_beside_them() -> None:
    """More than that nobody holds in the head."""
    rooms = {file.parent for file in FILES if file.parent.parent == ROOT / "snp"}
    beside = {file.stem for file in (ROOT / "snp").glob("*.py")} - FACE
    assert len(rooms) <= 12
    assert len(beside) <= 4


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_are_short(file: Path) -> None:
    """200 lines a file, 150 in the mathematics, 40 a function."""
    text = file.read_text()
    assert len(text.splitlines()) <= (150 if "core" in file.parts else 200)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, node.name


def test_no_circle_of_files() -> None:
    """Every file stands above all it imports, deferred imports included."""
    modules = {name_of(file): file for file in FILES}
    taken = {name: {other for other in imported(file) if other in modules} for name, file in modules.items()}
    # A package's face is imported with every file in it, and hands names on: it is no room.
    faces = {name for name, file in modules.items() if file.stem == "__init__"}
    arrows = {name: {other for other in others - faces if other != name} for name, others in taken.items()}
    order = list(TopologicalSorter(arrows).static_order())
    assert set(order) == set(modules)


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_no_private_module_is_imported(folder: str) -> None:
    """What starts with an underscore belongs to its room."""
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported(file):
            parts = name.split(".")
            is_private = any(part.startswith("_") and not part.startswith("__") for part in parts)
            assert parts[0] != "snp" or not is_private, f"{file}: {name}"


def room_of(module: str) -> str:
    """``core`` of ``snp.core.gram``, ``settings`` of ``snp.settings``."""
    return module.split(".")[1]


def drawn() -> dict[str, set[str]]:
    """Arrows of the picture that docs/architecture.md opens with."""
    lines = (ROOT / "docs" / "architecture.md").read_text().split("```")[1].splitlines()
    arrows: dict[str, set[str]] = {}
    for line in lines:
        if found := re.match(r"\s+(\w+)\[\"(.*?)<br/>.*\"\](?: --> (.*))?$", line):
            arrows[found[1]] = set(found[3].split(" & ")) if found[3] else set()
    return arrows


def test_the_picture_is_the_code() -> None:
    """Every import between rooms runs along its arrows, and every arrow is an import."""
    taken: dict[str, set[str]] = {}
    for file in FILES:
        if file.parent == ROOT / "snp" and file.stem in FACE:
            continue
        room = room_of(name_of(file))
        others = {room_of(name) for name in imported(file) if name.startswith("snp.")}
        taken[room] = taken.get(room, set()) | (others - {room})
    arrows = drawn()
    assert arrows.keys() - {"command"} == taken.keys()
    reached: dict[str, set[str]] = {}
    for room in TopologicalSorter(arrows).static_order():
        reached[room] = arrows[room] | {far for near in arrows[room] for far in reached[near]}
    for room, others in taken.items():
        assert others <= reached[room], room
        assert arrows[room] <= others, room


def test_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
