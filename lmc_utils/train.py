"""One loop for all that is learned here, networks and symmetries alike: seeded, resumable, parallel."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .data import Batches
from .paths import Batch, evaluate, logits_of
from .progress import progress
from .storage import fingerprint, named, read_checkpoint, save_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class History:
    """How a run went.

    Parameters
    ----------
    loss
        The loss of each step's batch, nats.
    validation
        Step to loss on the validation data, nats, where there are any.
    """

    loss: tuple[float, ...]
    validation: dict[int, float]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the loss of each step, and the validation loss as dots."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
        ax.plot(range(1, len(self.loss) + 1), self.loss, linewidth=0.8, label="batch of each step")
        if self.validation:
            ax.plot(*zip(*self.validation.items(), strict=True), "o-", markersize=4, label="validation")
            ax.legend(frameon=False)
        ax.set(xlabel="step", ylabel="loss (nats)")
        ax.spines[["top", "right"]].set_visible(False)
        return ax


def fit(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    steps: int,
    lr: float,
    batch_size: int | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: float = 0.0,
    clip: float | None = None,
    average: float = 0.0,
    augment: Callable[[Tensor], Tensor] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    every: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    run: dict | None = None,
    desc: str = "fit",
) -> History:
    """Minimise what ``module(inputs, targets)`` returns, in place, with AdamW on a cosine with warm-up.

    Started by ``accelerate launch``, each process works on its part of every batch, and gradients are averaged: without
    dropout the same run as in one process, up to rounding. Devices and mixed precision are Accelerate's settings.

    Parameters
    ----------
    module
        Its parameters are learned; its forward returns the loss of a batch, a scalar in nats.
    batches
        :class:`lmc_utils.data.Batches` are shuffled anew each round, in an order that ``seed`` decides, and cut into
        ``batch_size``; any other re-iterable of ``(inputs, targets)`` is taken as it comes.
    steps, lr, batch_size, weight_decay, betas, warmup, clip, average
        Steps in all; the highest learning rate; samples in a step; AdamW's decay and betas; the fraction of the steps
        in which the rate rises; the largest norm of the gradient; the decay of a running average of the parameters,
        which is what is validated and returned (0: none).
    augment
        What to do to each single input before a step uses it.
    validate
        The loss of the module on data held out. With it, the parameters of the best evaluation are kept.
    every, patience
        Steps between two checkpoints and evaluations (default: a tenth of all); stop after so many evaluations
        without a better one.
    seed
        Decides the order of the data and all that the module draws.
    checkpoint, run
        A safetensors file to write at each evaluation and to go on from if it exists, and what the run was asked for:
        a checkpoint that was asked for something else is refused.

    Raises
    ------
    ValueError
        If ``steps`` is below 1, or there is patience but nothing to validate on; if there is no batch, or none in a
        later round; if the checkpoint is corrupt or of another run; if the loss
        is not finite (the last checkpoint stays).
    """
    from accelerate import Accelerator

    accelerator = Accelerator()
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if patience and not validate:
        raise ValueError(f"patience={patience} needs data for validation: without them nothing can be stale")
    every = every or max(1, steps // 10)
    module.to(accelerator.device)  # first, so that what is made of its parameters lies there, too
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, betas=betas)
    run = {"steps": steps, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "betas": list(betas),
           "warmup": warmup, "clip": clip, "average": average, "seed": seed, "every": every, "patience": patience,
           "start": fingerprint(module.state_dict().values()), **(run or {})}  # fmt: skip
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None
    result = averaged.module if averaged else module  # shares its parameters with what is learned, if not averaged
    state = _State(module, optimizer, averaged)
    if checkpoint and checkpoint.exists():
        state.load(checkpoint, run)
    done, rising = state.step, round(warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda more: _rate(done + more, steps, rising))
    trained, prepared = accelerator.prepare(module, optimizer)
    with (
        torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []),
        progress(total=steps, initial=state.step, desc=desc, disable=not accelerator.is_main_process) as bar,
    ):
        for inputs, targets in _minibatches(batches, batch_size, seed, state.step):
            if state.step == steps or (patience and state.stale >= patience):
                break
            torch.manual_seed(seed * 1_000_003 + state.step)  # what a step draws depends on its number only
            if augment:
                inputs = torch.stack([augment(x) for x in inputs])
            # what every process computes counts by its samples; one without any computes something that counts nothing
            part = [x[accelerator.process_index :: accelerator.num_processes] for x in (inputs, targets)]
            weight = len(part[0]) * accelerator.num_processes / len(inputs)
            part = part if weight else [inputs[:1], targets[:1]]
            loss = weight * trained(*(x.to(accelerator.device) for x in part))
            prepared.zero_grad()
            accelerator.backward(loss)
            if clip:
                accelerator.clip_grad_norm_(trained.parameters(), clip)
            prepared.step()
            schedule.step()
            if averaged:
                averaged.update_parameters(module)
            state.loss.append(accelerator.reduce(loss.detach(), "mean").item())
            if not math.isfinite(state.loss[-1]):
                raise ValueError(f"the loss became {state.loss[-1]} in step {state.step}: lower lr (it is {lr})")
            bar.update()
            if state.step % every == 0 or state.step == steps:
                if validate:
                    state.judge(validate(result), result)
                bar.set_postfix(loss=f"{state.loss[-1]:.3f}")
                if checkpoint and accelerator.is_main_process:
                    state.save(checkpoint, run)
        else:  # only an empty round ends the rounds
            if state.step < steps:
                how = "can be iterated only once" if state.step else "are empty"
                raise ValueError(f"no batch for step {state.step + 1} of {steps}: the data {how}")
    module.load_state_dict(state.best or result.state_dict())
    return History(tuple(state.loss), state.validation)


def _rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate after so many steps, as a fraction of the highest: a line up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _minibatches(batches: Iterable[Batch], batch_size: int | None, seed: int, done: int) -> Iterator[Batch]:
    """Round after round of the data without end, beginning after ``done`` minibatches."""
    epoch = 0
    while True:
        count = 0
        if isinstance(batches, Batches):
            size = batch_size or batches.batch_size
            order = torch.randperm(
                len(batches.inputs), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            )
            found = ((batches.inputs[rows], batches.targets[rows]) for rows in order.split(size))
        else:
            found = batches
        for batch in found:
            count += 1
            if count > done:
                yield batch
        if not count:
            return
        done, epoch = max(0, done - count), epoch + 1


class _State:
    """All that a run needs to go on, in one safetensors file."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, averaged: AveragedModel | None) -> None:
        self.module, self.optimizer, self.averaged = module, optimizer, averaged
        self.loss: list[float] = []
        self.validation: dict[int, float] = {}
        self.best: dict[str, Tensor] = {}

    @property
    def step(self) -> int:
        return len(self.loss)

    @property
    def stale(self) -> int:
        """Evaluations since the best one."""
        values = list(self.validation.values())
        return len(values) - 1 - values.index(min(values)) if values else 0

    def judge(self, loss: float, result: nn.Module) -> None:
        if loss < min(self.validation.values(), default=math.inf):
            self.best = {name: t.detach().clone() for name, t in result.state_dict().items()}
        self.validation[self.step] = loss

    def save(self, path: Path, run: dict) -> None:
        tensors = {f"model.{name}": t for name, t in self.module.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        if self.averaged:
            tensors |= {f"average.{name}": t for name, t in self.averaged.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t for name, t in values.items()}
        metadata = {"run": run, "loss": self.loss, "validation": self.validation}
        save_atomically(tensors, path, {key: json.dumps(value) for key, value in metadata.items()})

    def load(self, path: Path, run: dict) -> None:
        tensors, metadata = read_checkpoint(path)
        if metadata.get("run") != json.loads(json.dumps(run)):
            raise ValueError(f"the checkpoint {path.name} belongs to another run: {metadata.get('run')} against {run}")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.module.load_state_dict(parts["model"])
        if self.averaged:
            self.averaged.load_state_dict(parts["average"])
        state = self.optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        self.best, self.loss = parts["best"], metadata["loss"]
        self.validation = {int(step): loss for step, loss in metadata["validation"].items()}


class _Supervised(nn.Module):
    """A network with its loss on a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits_of(self.network(inputs)).flatten(0, -2), targets.flatten())


def train(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: float = 8,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: float = 0.0,
    clip: float | None = None,
    average: float = 0.0,
    augment: Callable[[Tensor], Tensor] | None = None,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train a copy of a model with AdamW, the learning rate falling to zero along half a cosine.

    Parameters
    ----------
    model
        Where to start; it is not changed. Parts of it may be frozen; where all is, as in what
        :func:`lmc_utils.load_endpoint` gives, all is trained.
    batches
        Training data; shuffled anew each epoch, in an order that ``seed`` and the epoch decide.
    epochs, batch_size, lr, weight_decay, betas, warmup, clip, average, augment
        The recipe: see :func:`lmc_utils.train.fit`.
    validation
        Data held out. With them, the weights of the best epoch are returned.
    patience
        Stop after so many epochs without a better validation loss.
    seed
        Decides the order of the data, dropout and augmentation (the initial weights are the model's).
    checkpoint
        A safetensors file to write after each epoch and to go on from if it exists. The weights in the end are the
        same whether the run was interrupted or not.

    Returns
    -------
    nn.Module
        The trained copy, in evaluation mode, where the model was.

    Raises
    ------
    ValueError
        If the checkpoint is corrupt or belongs to another run, or the loss becomes NaN (the last checkpoint stays).
    """
    whole = _Supervised(copy.deepcopy(model).train())
    if not any(p.requires_grad for p in whole.parameters()):  # as end points are loaded
        whole.requires_grad_(True)

    def validate(module: nn.Module) -> float:
        loss = evaluate(module.network.eval(), validation).loss
        module.network.train()
        return loss

    per_epoch = -(-len(batches.inputs) // batch_size)
    fit(
        whole,
        batches,
        steps=round(epochs * per_epoch),
        every=per_epoch,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        betas=betas,
        warmup=warmup,
        clip=clip,
        average=average,
        augment=augment,
        validate=validate if validation is not None else None,
        patience=patience,
        seed=seed,
        checkpoint=checkpoint,
        run={"samples": len(batches.inputs), "augment": named(augment)},
        desc=f"seed {seed}",
    )
    return whole.network.eval().to(next(model.parameters()).device)
