"""The progress bar of long work: it appears after two seconds, and ``TQDM_DISABLE=1`` silences it everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress(iterable: Iterable | None = None, disable: bool = False, **options: Any) -> tqdm:
    """A tqdm bar. (In notebooks tqdm itself overlooks ``TQDM_DISABLE``, and bars would end up in committed outputs.)"""
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(iterable, delay=2, disable=disable or silent, **options)
