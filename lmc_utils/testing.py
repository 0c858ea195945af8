"""Tests of an architecture of your own, for pytest. Nothing else in the package needs pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .checks import CHECKS, Case, Check

if TYPE_CHECKING:
    import pytest

Build = Callable[[], nn.Module | tuple[nn.Module, Tensor]]


def parametrize_with_checks(
    models: Mapping[str, Build], *, expected_failures: Mapping[str, Mapping[str, str]] | None = None
) -> pytest.MarkDecorator:
    """Decorate a test so that it runs once for each model and each of the laws in :func:`lmc_utils.check_network`.

    Parameters
    ----------
    models
        By name, functions that build a small model each, or a model and inputs for it. The random seed is 0.
    expected_failures
        For a model the checks that it fails, by their names, and why. One that does not fail is an error.

    Raises
    ------
    ValueError
        If there is no such model or check, or a failure has no reason.

    Examples
    --------
    >>> @parametrize_with_checks({"my net": lambda: (MyNet(), torch.randn(20, 3))})
    ... def test_laws(check):
    ...     check()
    """
    import pytest

    failures, names = expected_failures or {}, [check.__name__ for check in CHECKS]
    if unknown := set(failures) - set(models):
        raise ValueError(f"failures are expected of {sorted(unknown)}, but the models are {list(models)}")
    for model, reasons in failures.items():
        if unknown := set(reasons) - set(names):
            raise ValueError(f"{model!r} is expected to fail {sorted(unknown)}, but the checks are {names}")
        if silent := [check for check, reason in reasons.items() if not reason]:
            raise ValueError(f"say why {model!r} is expected to fail {silent}")

    @cache  # what the checks share, such as the canonical form, is made once
    def case(model: str) -> Case:
        with torch.random.fork_rng():  # a law holds for all weights, but a test is the same test each time
            torch.manual_seed(0)
            built = models[model]()
        return Case(*built) if isinstance(built, tuple) else Case(built)

    def run(model: str, check: Check) -> None:
        check(case(model))

    def marks(model: str, check: Check) -> list[pytest.MarkDecorator]:
        reason = failures.get(model, {}).get(check.__name__)
        return [pytest.mark.xfail(reason=reason, strict=True)] if reason else []

    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                partial(run, model, check),
                marks=marks(model, check),
                id=f"{model}-{check.__name__.removeprefix('check_')}",
            )
            for model in models
            for check in CHECKS
        ],
    )
