"""The page *Add your architecture*: its model and its file run as written, and use no private name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lmc_utils as lmc

PAGE = (Path(__file__).parent.parent / "book" / "add-architecture.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    """What a reader has after running all of the page's code."""
    names = {"__name__": "of_ones_own"}
    for block in CODE:
        exec(block, names)
    return names


def test_the_page_runs_as_written(names):
    assert names["found"].flat > 0


def test_pytest_gets_a_test_for_each_law(names):
    (mark,) = names["test_laws"].pytestmark
    assert len(mark.args[1]) > 5
    for parameter in mark.args[1]:
        names["test_laws"](*parameter.values)


def test_only_public_names_are_used():
    assert not re.findall(r"(?<![\w])\.?_[a-z]\w*", "".join(CODE).replace("__init__", "").replace("__module__", ""))


def test_a_planted_symmetry_is_found(names):
    network = lmc.canonicalize(names["Sorter"]().double())
    planted = network.spec.sample(seed=1)
    found = lmc.weight_matching(network, planted(network))(planted(network))
    for name, p in network.params.items():
        assert (found.params[name] - p).abs().max() < 1e-6, name


def test_a_missing_star_is_noticed(names):
    code = CODE[1].replace("r (ff* up*)", "r (ff* up)")
    exec(code, dict(names))
    with pytest.raises(AssertionError, match=r"site 'up\.0'"):
        lmc.check_network(names["Sorter"](), names["inputs"][:20])
    exec(CODE[1], names)  # registers the right one again
