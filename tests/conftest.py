"""Shared by all tests: where the built book lies, a Chromium without network, local data, small networks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from hypothesis import HealthCheck, settings

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.mlp import mlp

# fixtures that only build things may be reused by every example, and two slow cores are no failure
settings.register_profile("book", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("book")

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: opens pages in Chromium (make test-fast leaves it out)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict:
    """Drive the system's Chromium (pytest-playwright would look for one that it downloaded itself)."""
    if CHROMIUM is None:
        reason = "no Chromium on this machine: install it (Debian: apt-get install chromium) to test the pages"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    return {"executable_path": CHROMIUM, "args": [*quiet, "--disable-quic", "--disable-sync", "--no-first-run"]}


@pytest.fixture
def browser_context_args() -> dict:
    """Every page is opened as a reader would with the network cable pulled out."""
    return {"offline": True}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> None:
    """A hub that cannot be reached, and a cache that is not the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def weigh(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``weigh(what, weights, limit)`` holds weights in kB, by name, against a limit; all are printed at the end."""

    def hold(what: str, weights: dict[str, float], limit: float, unit: str = "kB") -> None:
        record_property("weights", [what, weights, limit, unit])
        assert not {name: weight for name, weight in weights.items() if weight > limit}, f"more than {limit} {unit}"

    return hold


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print as bars what was weighed. Reports bring it here from the processes that ran the tests."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]  # teardown repeats the properties
    properties = [entry for report in calls for entry in report.user_properties]
    for what, weights, limit, unit in (value for key, value in properties if key == "weights"):
        terminalreporter.section(f"{what}: {limit} {unit} at most")
        for name, weight in weights.items():
            terminalreporter.line(f"{name:<32.32} {weight:5.4g} {unit} {'█' * round(40 * weight / limit)}")


def write_table(folder: Path, splits: dict[str, dict[str, list]], features: datasets.Features | None = None) -> Path:
    """A local folder that `load_data` reads: one Parquet file a split."""
    folder.mkdir()
    for split, columns in splits.items():
        datasets.Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def make_mlp() -> Callable[..., lmc.Network]:
    """A small random MLP in float64: ``make_mlp(widths, seed)``."""

    def make(widths: tuple[int, ...] = (4, 5, 6, 3), seed: int = 0) -> lmc.Network:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return lmc.canonicalize(mlp(widths).double())

    return make


@pytest.fixture(scope="session")
def make_batches() -> Callable[..., Batches]:
    """Random inputs with learnable targets for an MLP of these widths, in batches of unequal size."""

    def make(widths: tuple[int, ...], samples: int = 50) -> Batches:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(samples, widths[0], generator=generator)
        return Batches(inputs, inputs.abs().sum(-1).mul(3).long() % widths[-1], batch_size=20)

    return make
