"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import lmc_utils as lmc

FINDER = doctest.DocTestFinder(exclude_empty=True)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(lmc.__path__, "lmc_utils.")
    if not module.name.startswith("lmc_utils.assets") and not module.name.endswith("__main__")
]
LOUD = {"lmc_utils.endpoints", "lmc_utils.checkpoints"}  # old names, which warn


@pytest.mark.parametrize("name", [name for name in MODULES if name not in LOUD])
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in FINDER.find(module, extraglobs={"lmc": lmc, "torch": torch}):
        runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize("name", [name for name in lmc.__all__ if inspect.isfunction(getattr(lmc, name))])
def test_every_public_function_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(lmc, name))
