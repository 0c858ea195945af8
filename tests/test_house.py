"""The package reads downwards: no import goes up or in a circle, and what is above asks for no name from below."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lmc_utils as lmc
from lmc_utils.moved import MOVED

FLOORS = (
    {"arguments", "progress", "storage", "style"},  # words and files, of which nothing here is about networks
    {"spec", "alignment", "typed", "symmetry"},
    {"networks", "zoo", "data", "assets"},
    {"landscape", "train", "recipe"},
    {"matching"},
    {"explore", "__main__", "checks", "testing"},
    {"", "moved"},  # the package itself, where all names come together
)
PACKAGE = Path(lmc.__file__).parent
FILES = {".".join(f.relative_to(PACKAGE).with_suffix("").parts): f for f in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name.removesuffix("__init__").rstrip("."): path for name, path in FILES.items()}
SHARED = {"base", "flat", "fold", "folders", "layout", "pretrained", "stock"}  # what networks/ has beside them
ARCHITECTURES = {name.removeprefix("networks.") for name in MODULES if name.startswith("networks.")} - SHARED


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports from, also inside of functions and for types only."""
    path, found = MODULES[module], set()
    here = ["lmc_utils", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1], *filter(None, [node.module])] if node.level else [node.module]
            inside = {".".join([*base, alias.name]) for alias in node.names}
            found |= {name if name.partition(".")[2] in MODULES else ".".join(base) for name in inside}
    return {name.partition(".")[2] for name in found if name.partition(".")[0] == "lmc_utils"}


def floor(module: str) -> int:
    """The floor on which a module is."""
    return next(i for i, rooms in enumerate(FLOORS) if module.partition(".")[0] in rooms)


def words(module: str) -> Iterator[str]:
    """The names that a module's code uses, those in strings of one word included; docstrings and prose are free."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        found = [getattr(node, field, None) for field in ("id", "attr", "name", "module", "arg", "value")]
        yield from (word for word in found if isinstance(word, str) and not re.search(r"\s", word))


def symmetries() -> set[str]:
    """The classes of symmetry, by name, without the base that all of them share."""
    files = [path for name, path in MODULES.items() if re.fullmatch(r"symmetry(\.(?!base$).*)?", name)]
    trees = [ast.parse(path.read_text()) for path in files]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)} - {"Symmetry"}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_from_a_floor_above(module):
    above = {name for name in imports(module) if floor(name) > floor(module)}
    assert not above, f"{module} is on floor {floor(module)}, below {above}"


def test_no_two_files_import_each_other():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()  # raises a CycleError that shows it


OUTSIDE = [name for name in MODULES if name.partition(".")[0] not in ("networks", "zoo")]
ABOVE = [name for name in MODULES if name and floor(name) >= floor("landscape")]  # but for the package's own list


@pytest.mark.parametrize("module", OUTSIDE)
def test_no_architecture_is_named_outside_of_its_room(module):
    named = {word for word in words(module) if ARCHITECTURES & set(re.split(r"[^a-z0-9]+", word.lower()))}
    assert not named, f"{module} names {named}"


@pytest.mark.parametrize("module", ABOVE)
def test_no_class_of_symmetry_is_asked_for_by_name(module):
    assert not (named := symmetries() & set(words(module))), f"{module} names {named}: ask for a property"


def test_names_are_seen():
    assert {"mlp", "gpt2", "vit"} <= ARCHITECTURES
    assert {"Permutation", "StreamOrthogonal"} <= symmetries()
    assert {"networks.base", "merge", "lam"} <= set(words("landscape.repair"))


def test_imports_are_seen():
    assert {"landscape.evaluate", "data"} <= imports("train")
    assert {"landscape.prompt", "landscape.average"} <= imports("landscape.curve")  # the first for types only
    assert "networks.base" in imports("landscape.repair")
    assert "explore.figure" in imports("explore")


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_is_found_under_its_old_name(name):
    names = {"paths": "Curve", "prompt": "Text", "repair": "repair", "simplex": "Simplex",
             "checkpoints": "load_model", "endpoints": "load_endpoint"}  # fmt: skip
    module = importlib.import_module(f"lmc_utils.{name}")
    with pytest.warns(DeprecationWarning, match=rf"^lmc_utils\.{name}\.{names[name]} is deprecated: it is lmc_utils\."):
        found = getattr(module, names[name])
    assert found is getattr(lmc, names[name])
    assert not hasattr(module, "nothing")


def test_importing_an_old_name_hides_no_function():
    importlib.import_module("lmc_utils.repair")
    assert callable(lmc.repair)
