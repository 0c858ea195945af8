"""One loop for all that is learned here, networks and symmetries alike: seeded, resumable, parallel."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .arguments import check_targets, count, number, pairs, reading
from .data import Batch, Batches
from .landscape.evaluate import evaluate, logits_of
from .landscape.recipe import Recipe
from .progress import progress
from .storage import check_writable, fingerprint, read_checkpoint, save_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_dice = threading.RLock()  # torch's random state is the process's: who borrows it keeps all other runs out


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


class Draws:
    """The random numbers of one run, which depend on no other thread and change nobody's.

    Dropout and what users write draw from torch's global state. So a run goes on from a state of its own wherever
    something may draw, and puts back what it found.
    """

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        with _dice:
            self.state = torch.get_rng_state()

    @contextmanager
    def __call__(self, seed: int | None = None) -> Iterator[None]:
        """Draw from a seed, or go on where the last block ended."""
        with _dice, torch.random.fork_rng(self.devices):
            if seed is None:
                torch.set_rng_state(self.state)
            else:
                torch.manual_seed(seed)
            yield
            self.state = torch.get_rng_state()


def check_batches(name: str, batches: Any, network: Callable[[Tensor], Any] | None = None) -> None:
    """Check data as far as they can be looked at without being used up.

    Parameters
    ----------
    name, batches
        :class:`lmc_utils.data.Batches`, or any other re-iterable of ``(inputs, targets)``.
    network
        What will be run on them. Where the data are held in memory, it answers to the first sample of each batch (of
        :class:`lmc_utils.data.Batches`: of all), with which the targets are compared.

    Raises
    ------
    TypeError
        If they are no batches at all.
    ValueError
        If there are none, they can be iterated only once, the network cannot run on them, or targets are no classes.
    """
    if isinstance(batches, (str, bytes, dict)) or not hasattr(batches, "__iter__"):
        raise TypeError(f"{name} must be batches (inputs, targets), such as data.train, not {batches!r:.80}")
    if isinstance(batches, Iterator):
        raise ValueError(f"{name} can be iterated only once: give a list of them, or a DataLoader")
    if isinstance(batches, Batches):
        batches = [(batches.inputs, batches.targets)]
    if held := isinstance(batches, (list, tuple)):
        batches = list(pairs(batches, tensors=True))
    if length_hint(batches, 1) == 0:
        raise ValueError(f"{name} hold no batch: the data are empty")
    for inputs, targets in batches if held and network else []:
        with torch.no_grad(), reading(inputs):
            logits = logits_of(network(inputs[:1]))
        check_targets(logits.expand(len(targets), *logits.shape[1:]), targets)


def fit(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    validate: Callable[[nn.Module], float] | None = None,
    run: dict | None = None,
    desc: str = "fit",
    **recipe: Any,
) -> History:
    """Minimise what ``module(inputs, targets)`` returns, in place, with AdamW on a cosine with warm-up.

    Started by ``accelerate launch``, each process works on its part of every batch, and gradients are averaged: without
    dropout the same run as in one process, up to rounding. Devices and mixed precision are Accelerate's settings.

    Runs in several threads give what each gives alone, and the caller's random state stays as it was. One at a time
    draws its batch, augments it and computes its loss.

    Parameters
    ----------
    module
        Its parameters are learned; its forward returns the loss of a batch, a scalar in nats.
    batches
        :class:`lmc_utils.data.Batches` are shuffled anew each round, in an order that ``seed`` decides, and cut into
        ``batch_size``; any other re-iterable of ``(inputs, targets)`` is taken as it comes.
    validate
        The loss of the module on data held out. With it, the parameters of the best evaluation are kept.
    run
        What else the run was asked for: a checkpoint that was asked for something else is refused.
    recipe
        The fields of a :class:`lmc_utils.landscape.recipe.Recipe`.

    Raises
    ------
    TypeError, ValueError
        Before the first step, if an argument is not as above, there is patience but nothing to validate on, there is no
        batch, or the checkpoint is corrupt or of another run. Later, if there is no batch left, or if the loss, the
        validation loss or the weights are not finite (the last checkpoint stays).
    """
    from accelerate import Accelerator

    recipe = Recipe(**recipe)
    recipe.check_patience(validate is not None)
    steps, lr, seed, checkpoint = recipe.steps, recipe.lr, recipe.seed, recipe.checkpoint
    check_batches("batches", batches)
    if checkpoint is not None:
        check_writable(checkpoint)
    with _dice:  # the first one sets up what all share
        accelerator = Accelerator()
    module.to(accelerator.device)  # first, so that what is made of its parameters lies there, too
    optimizer = torch.optim.AdamW(module.parameters(), lr, recipe.betas, weight_decay=recipe.weight_decay)
    run = recipe.told | {"start": fingerprint(module.state_dict().values())} | (run or {})
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(recipe.average)) if recipe.average else None
    result = averaged.module if averaged else module  # shares its parameters with what is learned, if not averaged
    state = _State(module, optimizer, averaged)
    if checkpoint and checkpoint.exists():
        state.load(checkpoint, run)
    done, rising = state.step, round(recipe.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda more: _rate(done + more, steps, rising))
    trained, prepared = accelerator.prepare(module, optimizer)
    draws, found = Draws(accelerator.device), _minibatches(batches, recipe.batch_size, seed, state.step)
    with progress(total=steps, initial=state.step, desc=desc, disable=not accelerator.is_main_process) as bar:
        while state.step < steps and not (recipe.patience and state.stale >= recipe.patience):
            with draws():
                batch = next(found, None)
            if batch is None:  # only an empty round ends the rounds
                how = "can be iterated only once" if state.step else "are empty"
                raise ValueError(f"no batch for step {state.step + 1} of {steps}: the data {how}")
            inputs, targets = batch
            with draws(seed * 1_000_003 + state.step):  # what a step draws depends on its number only
                if recipe.augment:
                    inputs = torch.stack([recipe.augment(x) for x in inputs])
                # what every process computes counts by its samples; one without any computes something that counts
                # nothing
                part = [x[accelerator.process_index :: accelerator.num_processes] for x in (inputs, targets)]
                weight = len(part[0]) * accelerator.num_processes / len(inputs)
                part = part if weight else [inputs[:1], targets[:1]]
                try:
                    loss = weight * trained(*(x.to(accelerator.device) for x in part))
                except torch.linalg.LinAlgError as error:  # of maps learned from what is not finite any more
                    raise ValueError(f"step {state.step + 1} failed ({error}): lower lr (it is {lr})") from error
            state.loss.append(accelerator.reduce(loss.detach(), "mean").item())
            if not math.isfinite(state.loss[-1]):
                raise ValueError(f"the loss became {state.loss[-1]} in step {state.step}: lower lr (it is {lr})")
            prepared.zero_grad()
            accelerator.backward(loss)
            if recipe.clip:
                accelerator.clip_grad_norm_(trained.parameters(), recipe.clip)
            prepared.step()
            schedule.step()
            if averaged:
                averaged.update_parameters(module)
            bar.update()
            if state.step % recipe.every == 0 or state.step == steps:
                if not all(torch.isfinite(p).all() for p in module.parameters()):  # no later loss would tell
                    raise ValueError(f"weights became NaN or infinite in step {state.step}: lower lr (it is {lr})")
                if validate:
                    with draws():
                        state.judge(validate(result), result)
                bar.set_postfix(loss=f"{state.loss[-1]:.3f}")
                if checkpoint and accelerator.is_main_process:
                    state.save(checkpoint, run)
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
        for batch in pairs(found, tensors=True):
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
        logits = logits_of(self.network(inputs))
        check_targets(logits, targets)
        return cross_entropy(logits.flatten(0, -2), targets.flatten())


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
        The recipe: see :class:`lmc_utils.landscape.recipe.Recipe`.
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
    TypeError, ValueError
        Before the first step, if an argument is not as above, ``epochs`` are less than one step, the model cannot run
        on the data, its weights are not finite, or the checkpoint is corrupt or belongs to another run. Later, if a
        loss or the weights become NaN or infinite (the last checkpoint stays).

    Examples
    --------
    >>> import torch
    >>> import lmc_utils as lmc
    >>> digits = lmc.load_data("digits").train
    >>> flat = lmc.data.Batches(digits.inputs.flatten(1), digits.targets, 100)
    >>> lmc.train(torch.nn.Linear(64, 10), flat, epochs=1)
    Linear(in_features=64, out_features=10, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, not {type(model).__name__}: Network.to_model() gives one")
    if not isinstance(batches, Batches):
        raise TypeError(f"batches must be lmc_utils.data.Batches, such as data.train, not {type(batches).__name__}")
    number("epochs", epochs, above=0)
    count("batch_size", batch_size)
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise ValueError(f"parameter {name!r} of the model has NaN or infinite entries: nothing can be learned")
    per_epoch = -(-len(batches.inputs) // batch_size)
    steps = round(epochs * per_epoch)
    if not steps:
        raise ValueError(f"epochs={epochs} is no step at all: an epoch is {per_epoch} steps")
    recipe = Recipe(
        steps, lr, batch_size, weight_decay=weight_decay, betas=betas, warmup=warmup, clip=clip, average=average,
        augment=augment, every=per_epoch, patience=patience, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip
    recipe.check_patience(validation is not None)
    device = next(model.parameters()).device
    whole = _Supervised(copy.deepcopy(model).eval())
    for name, data in {"batches": batches, "validation": validation}.items():
        if data is not None:
            check_batches(name, data, lambda inputs: whole.network(inputs.to(device)))
    whole.train()
    if not any(p.requires_grad for p in whole.parameters()):  # as end points are loaded
        whole.requires_grad_(True)

    def validate(module: nn.Module) -> float:
        loss = evaluate(module.network.eval(), validation).loss
        module.network.train()
        return loss

    fit(
        whole,
        batches,
        validate=validate if validation is not None else None,
        run={"samples": len(batches.inputs)},
        desc=f"seed {seed}",
        **vars(recipe),
    )
    return whole.network.eval().to(device)
