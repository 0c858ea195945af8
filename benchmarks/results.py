"""Where the long runs leave their tables: ``lmc_utils/assets/results``, with a checksum each."""

from __future__ import annotations

import csv

from lmc_utils.assets.make_data import update_checksums
from lmc_utils.data import ASSETS


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
