"""The recipe of a run, for networks and for symmetries alike: how many steps, how large, on what, and until when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arguments import count, function, instance, number
from ..storage import named

SEED = 2**43  # the largest: seeds are multiplied by a million and three, and torch's are below 2**63


@dataclass(frozen=True)
class Recipe:
    """How something is learned by AdamW, its rate rising first and then falling along half a cosine.

    Parameters
    ----------
    steps, lr
        Steps in all, and the highest learning rate.
    batch_size
        Samples in a step, where the data are :class:`lmc_utils.data.Batches`; by default as many as these say.
    weight_decay, betas
        AdamW's.
    warmup
        The fraction of the steps in which the rate rises.
    clip
        The largest norm of the gradient.
    average
        The decay of a running average of the parameters, which is what is validated and returned (0: none).
    augment
        What to do to each single input before a step uses it.
    every
        Steps between two evaluations and checkpoints; by default a tenth of all.
    patience
        Stop after so many evaluations without a better one.
    seed
        Decides the order of the data and all that is drawn.
    checkpoint
        A safetensors file to write at each evaluation, and to go on from if it exists.

    Raises
    ------
    TypeError, ValueError
        With the name and the value of the first that cannot be meant.

    Examples
    --------
    >>> Recipe(steps=300, lr=0.02).every
    30
    """

    steps: int
    lr: float
    batch_size: int | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.0
    clip: float | None = None
    average: float = 0.0
    augment: Callable[[Tensor], Tensor] | None = None
    every: int | None = None
    patience: int | None = None
    seed: int = 0
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        steps = count("steps", self.steps)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, not {self.betas!r}")
        checked = {
            "steps": steps,
            "lr": number("lr", self.lr, most=1e6, above=0),  # beyond, float32 ends
            "weight_decay": number("weight_decay", self.weight_decay, 0, 1e6),
            "betas": tuple(number("betas", beta, 0, below=1) for beta in self.betas),
            "warmup": number("warmup", self.warmup, 0, below=1),
            "average": number("average", self.average, 0, below=1),
            "seed": count("seed", self.seed, -SEED, SEED),
            "every": max(1, steps // 10) if self.every is None else count("every", self.every),
        }
        if self.clip is not None:
            checked["clip"] = number("clip", self.clip, above=0)
        for name in ("batch_size", "patience"):
            if (value := getattr(self, name)) is not None:
                checked[name] = count(name, value)
        function("augment", self.augment, optional=True)
        if self.checkpoint is not None:
            instance("checkpoint", self.checkpoint, (str, Path))
            checked["checkpoint"] = Path(self.checkpoint)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def check_patience(self, validated: bool) -> None:
        """Raise a ValueError if a run would stop by its validation loss but has no data for validation."""
        if self.patience is not None and not validated:
            raise ValueError(f"patience={self.patience} needs data for validation: without them nothing can be stale")

    @property
    def told(self) -> dict[str, Any]:
        """What a checkpoint remembers of it, as plain values, which is all but where the checkpoint is."""
        return {n: value for n, value in vars(self).items() if n != "checkpoint"} | {"augment": named(self.augment)}
