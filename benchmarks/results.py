"""What the long runs share: cases that are computed once each, and tables in ``lmc_utils/assets/results``."""

from __future__ import annotations

import argparse
import csv
import json
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import lmc_utils as lmc
from lmc_utils.assets.make_data import update_checksums
from lmc_utils.data import ASSETS, Batches
from lmc_utils.landscape.evaluate import best_temperature


def pairs(*names: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """All pairs of seeds of some sets of shipped end points: name of the case to set and seeds."""
    shipped = lmc.list_endpoints()
    return {f"{name}-{i}-{j}": (name, (i, j)) for name in names for i, j in combinations(shipped[name], 2)}


def every(batches: Batches, n: int) -> Batches:
    """One sample in n of a split, evenly spread over it."""
    return replace(batches, inputs=batches.inputs[::n], targets=batches.targets[::n])


@torch.no_grad()
def sample_losses(network: lmc.Network, batches: Batches) -> Tensor:
    """The loss of each image, or of each text its mean over the tokens, shape (samples,), nats, float64."""
    return sample_measures(network, batches)[0]


@torch.no_grad()
def sample_measures(network: lmc.Network, batches: Batches, calibrate: bool = False) -> Tensor:
    """Loss and accuracy of each image, or of each text their means over the tokens, shape (2, samples), float64.

    With ``calibrate`` the logits are first divided by the one temperature that is best for all of these samples.
    """
    answers, temperature = ((network(x), y) for x, y in batches), 1.0
    if calibrate:
        answers = list(answers)
        logits, targets = (torch.cat(parts) for parts in zip(*answers, strict=True))
        temperature = best_temperature(logits.flatten(0, -2), targets.flatten())
    found = []
    for answer, y in answers:
        logits, targets = answer.flatten(0, -2) / temperature, y.flatten()
        both = cross_entropy(logits, targets, reduction="none"), (logits.argmax(1) == targets).double()
        found.append(torch.stack([each.view(len(y), -1).double().mean(1) for each in both]))
    return torch.cat(found, 1)


def command(
    doc: str,
    table: str,
    cases: Iterable[str],
    compute: Callable[[str, Namespace], Any],
    *needs: str,
    rows: Callable[[list], Iterable[dict]] = chain.from_iterable,
) -> None:
    """The command line of a long run: ``run`` computes the cases that are not in ``--out``, ``table`` gathers them.

    ``needs`` are further options that ``compute`` finds in its arguments; ``rows`` makes the rows of the table from
    what it returned for all cases, by default lists of rows.
    """
    cases = list(cases)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True, help="where finished cases are kept")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, help="default: all")
    for name in needs:
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args()
    if args.what == "run" and (missing := [f"--{name}" for name in needs if getattr(args, name) is None]):
        parser.error(f"run needs {', '.join(missing)}")
    args.out.mkdir(parents=True, exist_ok=True)
    paths = {case: args.out / f"{case}.json" for case in args.cases}
    if args.what == "run":
        for case, path in paths.items():
            if not path.exists():
                path.write_text(json.dumps(compute(case, args)))
    else:
        write(table, list(rows([json.loads(path.read_text()) for path in paths.values()])))


def write(name: str, rows: list[dict]) -> None:
    """Write a table with five significant digits, and note its checksum."""
    path = ASSETS / "results" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    update_checksums([path])
    print(f"{path.name}: {len(rows)} rows")
