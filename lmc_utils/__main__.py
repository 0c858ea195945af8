"""The command line: ``python -m lmc_utils train mlp --seed 0``."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .arguments import count, number, one_line, unprintable
from .data import ASSETS, TOKENIZER, Data, load_data, verify, vocabulary
from .landscape.average import merge
from .landscape.curve import interpolate
from .landscape.evaluate import evaluate
from .landscape.recipe import Recipe
from .matching import weight_matching
from .networks.base import BUILDERS, Architecture, Network, check_same_architecture
from .storage import check_writable, new_folder
from .symmetry import LEVELS
from .train import train
from .zoo.endpoints import load_checkpoint, save_checkpoint
from .zoo.folders import load_pair, load_tokenizer, read_config, write_model
from .zoo.presets import PRESETS, augmentation, shaped

MOST = 2**31 - 1  # of anything that is counted on the command line
#: What ``--recipe`` may change; all else the command decides.
RECIPE = ("epochs", "batch_size", "lr", "weight_decay", "betas", "warmup", "clip", "average", "patience")
EPOCHS = partial(number, "epochs", above=0, most=1e6)


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message, math.inf)}\n")


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run; errors of the user's making end in one line, not in a traceback."""
    # a command that has more to say about an interruption says it later
    args = argparse.Namespace(kept=lambda: "nothing was written")
    try:
        with orderly():
            make_parser().parse_args(argv, args)
            args.run(args)
    except (ValueError, TypeError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        sys.exit(f"error: {one_line(error, math.inf)}")
    except KeyboardInterrupt as interruption:
        print(f"interrupted; {args.kept()}", file=sys.stderr)
        sys.exit(128 + next(iter(interruption.args), signal.SIGINT))


def make_parser() -> Parser:
    """Build the parser of all commands; each command names the function that runs it."""
    parser = Parser(prog="python -m lmc_utils", description="Linear mode connectivity modulo symmetry.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    command = commands.add_parser("train", help="make an end point", **defaults)
    command.add_argument("architecture", choices=list(BUILDERS))
    command.add_argument("--preset", choices=list(PRESETS), help="which recipe; default: the architecture's own")
    command.add_argument(
        "--seed",
        type=asked(int, partial(count, "seed", least=0, most=2**32 - 1)),
        default=0,
        help="of the initial weights and of the order of the data",
    )
    command.add_argument(
        "--data", type=words, help="a shipped data set, a hub name or a local folder; default: the preset's"
    )
    command.add_argument("--measure", type=words, help="data to measure losses on; default: those of the training")
    command.add_argument("--config", type=changes, default={}, help="changes of the preset's network, as JSON")
    command.add_argument("--recipe", type=recipe, default={}, help="changes of lmc.train's arguments, as JSON")
    for name, kind in (
        ("epochs", asked(float, EPOCHS)),
        ("batch-size", asked(int, partial(count, "batch_size", most=MOST))),
        ("lr", asked(float, partial(number, "lr", above=0, most=1e6))),
        ("weight-decay", asked(float, partial(number, "weight_decay", least=0, most=1e6))),
    ):
        command.add_argument(f"--{name}", type=kind, help="instead of the preset's")
    units = asked(int, partial(count, "hidden", most=MOST))
    command.add_argument("--hidden", type=units, nargs="+", help="units of each hidden layer of an mlp")
    command.add_argument("--half", action="store_true", help="store float16, if the loss does not move by over 1e-3")
    command.add_argument("--out", type=folder, default=Path("checkpoints"), help="folder to write to")
    command.set_defaults(run=train_endpoint)
    command = commands.add_parser("align", help="align two saved models by their weights and merge them", **defaults)
    command.add_argument("a", metavar="A", type=folder, help="folder of a saved GPT-2 or timm Vision Transformer")
    command.add_argument("b", metavar="B", type=folder, help="folder of another one of the same shape")
    command.add_argument("--out", type=folder, required=True, help="folder to make, for the merged model")
    command.add_argument(
        "--lam",
        type=asked(float, partial(number, "lam", least=0, most=1)),
        default=0.5,
        help="position between A (0) and the aligned B (1)",
    )
    command.add_argument("--allow", choices=LEVELS, default="invertible", help="largest class of symmetries to use")
    command.add_argument("--data", type=words, help="data for the barrier; default: what ships and fits")
    command.add_argument(
        "--points",
        type=asked(int, partial(count, "points", least=2, most=100_000)),
        default=25,
        help="size of the grid of lambda for the barrier",
    )
    command.set_defaults(run=align)
    return parser


@contextmanager
def orderly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt like Ctrl-C, so that unfinished files are removed on the way out."""

    def interrupt(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    found = {}
    if threading.current_thread() is threading.main_thread():  # only there may it be said
        for name in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is signal.SIG_DFL:  # not where nohup ignores it
                found[name] = signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in found.items():
            signal.signal(name, handler)


def asked(convert: Callable[[str], Any], check: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Combine a converter and a check into a type for argparse, which shows the message of either."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            kind = "whole number" if convert is int else "number"
            raise argparse.ArgumentTypeError(f"it takes a {kind}, not {text[:40]!r}") from None
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def words(text: str) -> str:
    """A name without control characters."""
    if not text or any(map(unprintable, text)):
        raise argparse.ArgumentTypeError(
            f"a name cannot be empty or contain control characters, but this is {text[:40]!r}"
        )
    return text


def folder(text: str) -> Path:
    """A path without control characters."""
    return Path(words(text))


def changes(text: str) -> dict:
    """A JSON object of finite numbers, texts and the like."""

    def refuse(constant: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"it takes finite numbers, not {constant}")

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'it takes an object such as {{"lr": 0.001}}, not {text[:40]}')
    return found


def recipe(text: str) -> dict:
    """A JSON object of arguments of :func:`lmc_utils.train`."""
    found = changes(text)
    if unknown := set(found) - set(RECIPE):
        raise argparse.ArgumentTypeError(f"it has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(RECIPE))}")
    rest = {"lr": 1.0} | found
    try:
        EPOCHS(rest.pop("epochs", 1))
        Recipe(steps=1, **rest)
        count("batch_size", found.get("batch_size", 1), most=MOST)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return found


def check_trainable(architecture: str, config: dict, inputs: Tensor) -> None:
    """Build a network without storage and let it read these inputs without storage.

    Raises
    ------
    ValueError
        If there is no such network, or it cannot read them, or training it would take more memory than there is.
    """
    try:
        with torch.device("meta"):
            model = BUILDERS[architecture](**config)
            model(inputs.to("meta"))
    except Exception as error:  # a library raises what it likes about arguments that it does not expect
        raise ValueError(f"there is no such {architecture}: {error}") from error
    parameters = sum(p.numel() for p in model.parameters())
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if (needed := 16 * parameters) > there:  # weights, gradients and AdamW's two moments, four bytes each
        raise ValueError(
            f"this {architecture} has {parameters:,} parameters: to train it takes {needed / 1e9:,.0f} GB of memory, "
            f"and this machine has {there / 1e9:,.0f} GB"
        )


def train_endpoint(args: argparse.Namespace) -> None:
    """Train one end point and write it; a run that was interrupted goes on where it stopped."""
    from accelerate import PartialState

    name = args.preset or args.architecture
    preset = PRESETS[name]
    if preset.architecture != args.architecture:
        raise ValueError(f"preset {name!r} is for {preset.architecture!r}, not for {args.architecture!r}")
    flags = {key: getattr(args, key) for key in ("epochs", "batch_size", "lr", "weight_decay")}
    recipe = preset.recipe | args.recipe | {key: value for key, value in flags.items() if value is not None}
    settings = preset.config | args.config | ({"hidden": args.hidden} if args.hidden else {})
    if not isinstance(settings.get("hidden", []), list):
        raise TypeError(f"hidden must be a list of the units of each hidden layer, not {settings['hidden']!r}")
    longest = BUILDERS[preset.architecture].context
    context = count(longest, settings.get(longest, 128), most=MOST)
    source = args.data or preset.data
    data = load_data(source, context=context)
    measured = load_data(args.measure, context=context) if args.measure else data
    config, other = (shaped(preset.architecture, settings, each) for each in (data, measured))
    if config != other:
        raise ValueError(f"--measure {args.measure} needs inputs and classes like those of {source}, but they differ")
    check_trainable(args.architecture, config, data.train.inputs[:1])
    batches = data.train if preset.samples is None else data.train.take(preset.samples)
    validation = data.validation
    if recipe.get("patience") and validation is None:  # the last twentieth is held out
        size = len(batches.inputs)
        batches, validation = batches.cut(size - max(1, size // 20))
    path = args.out / f"{name}-seed{args.seed}.safetensors"
    # of the data a folder's name, not where it lies on this machine
    story = {"architecture": args.architecture, "config": config, "preset": name, "seed": args.seed,
             "data": Path(source).name, "recipe": recipe, "samples": len(batches.inputs),
             "augment": preset.augment}  # fmt: skip
    if PartialState().is_main_process:
        check_writable(path)
        refuse_another_run(path, story)
    unfinished = path.with_suffix(".unfinished")
    args.kept = lambda: (
        "the same command goes on from the last finished epoch" if unfinished.exists() else "nothing was written"
    )
    torch.manual_seed(args.seed)
    model = BUILDERS[args.architecture](**config)
    augment = augmentation(preset.augment, data) if preset.augment else None
    model = train(
        model, batches, **recipe, augment=augment, validation=validation, seed=args.seed, checkpoint=unfinished
    )
    if not PartialState().is_main_process:
        return
    if args.measure:
        data = measured
        batches = data.train if preset.samples is None else data.train.take(preset.samples)
    results = {
        f"{split}_{what}": round(value, 5)
        for split, part in (("train", batches), ("validation", data.validation), ("test", data.test))
        if part is not None
        for what, value in zip(("loss", "accuracy"), evaluate(model, part), strict=False)
    }
    if args.half:
        stored = copy.deepcopy(model).half()
        moved = abs(evaluate(copy.deepcopy(stored).float(), data.test).loss - results["test_loss"])
        if moved > 1e-3:
            raise ValueError(f"float16 moves the test loss by {moved:.1e}: store float32 ({unfinished} is complete)")
        model = stored
    refuse_another_run(path, story)  # which may have ended meanwhile
    save_checkpoint(path, model, **story, **results)
    unfinished.unlink(missing_ok=True)  # the very same command may run twice
    print(f"{path}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in results.items()))


def refuse_another_run(path: Path, story: dict) -> None:
    """Raise a FileExistsError if there is a checkpoint at ``path`` that the same command would not write again."""
    if not path.exists():
        return
    found = load_checkpoint(path).metadata
    if differing := [key for key, value in story.items() if found.get(key) != json.loads(json.dumps(value))]:
        raise FileExistsError(
            f"{path} holds the result of another run (different: {', '.join(differing)}): move it or change --out"
        )


def align(args: argparse.Namespace) -> None:
    """Match B to A by weights, say what it did to the barrier, and save the merged model."""
    with new_folder(args.out) as place:
        a, b = load_pair(args.a, args.b)
        check_same_architecture(a, b)
        data = data_for(a.architecture, args.data, args.a, args.b)
        check_data(a, data)
        g = weight_matching(a, b, allow=args.allow)
        print(f"weight matching: {len(g.history) - 1} sweeps, score {g.history[0]:.1f} -> {g.history[-1]:.1f}")
        merged = merge(a, g(b), args.lam)
        for name, other in (("before", b), ("after", g(b))):
            curve = interpolate(a, other, data.test, points=args.points)
            at = f"{curve.barrier_at:.2f} (ends {curve.loss[0]:.3f} and {curve.loss[-1]:.3f})"
            print(f"barrier {name} alignment on {data.name}: {curve.barrier:.4f} nats at {at}")
        loss = evaluate(merged, data.test).loss
        write_model(merged, place, like=args.a)
    args.kept = lambda: f"{args.out} is complete"
    print(f"{args.out}: the model at lambda = {args.lam:g}, loss {loss:.4f} nats")


def data_for(architecture: Architecture, name: str | None, *folders: Path) -> Data:
    """Load the data for the barrier: text in the models' tokens and windows, images standardised as the models expect.

    Raises
    ------
    ValueError
        If the tokens do not belong to the models' vocabulary, or the models standardise images differently.
    """
    name, windows = name or architecture.data, {}
    if architecture.reads:
        known, positions = architecture.reads
        own = next(filter(None, map(load_tokenizer, folders)), None)
        tokenizer = own or Tokenizer.from_file(str(verify(ASSETS / TOKENIZER)))
        whose = "their tokenizer.json" if own else "the shipped tokenizer (there is no tokenizer.json beside them)"
        if (needed := vocabulary(tokenizer)) > known or (own is None and needed != known):
            raise ValueError(
                f"the models have a vocabulary of {known} tokens, but {whose} has {tokenizer.get_vocab_size()}, "
                f"numbered up to {needed - 1}"
            )
        windows = {"context": min(128, positions), "tokenizer": own}
    data = load_data(name, batch_size=50, **windows)
    if data.scale is None:
        return data
    scales = [scale for folder in folders if (scale := scale_of(folder, len(data.scale[0])))]
    if any(scale != scales[0] for scale in scales):
        raise ValueError(
            f"the models standardise images differently: mean and std are {scales[0]} in one, {scales[-1]} in another"
        )
    if scales:
        data = data.rescaled(*scales[0])
    whose = "as the models' config.json says" if scales else "by the data's own mean and standard deviation"
    print(f"images of {data.name} are standardised {whose}")
    return data


def scale_of(folder: Path, channels: int) -> tuple[list[float], list[float]] | None:
    """Read mean and standard deviation from a timm model's config.json; None if they do not fit this many channels."""
    config = read_config(folder)
    nested = config.get("pretrained_cfg")
    mean, std = ((nested if isinstance(nested, dict) and "mean" in nested else config).get(k) for k in ("mean", "std"))
    if not all(isinstance(values, list) and len(values) == channels for values in (mean, std)):
        return None
    try:
        return [number("mean", x) for x in mean], [number("std", x, above=0) for x in std]
    except TypeError as error:
        raise ValueError(f"config.json in {folder}: {error}") from error


@torch.no_grad()
def check_data(network: Network, data: Data) -> None:
    """Raise a ValueError, before anything is matched, if a network cannot read these data or has too few classes."""
    inputs, targets = data.test.inputs, data.test.targets
    text, shape, fits = not inputs.is_floating_point(), tuple(inputs.shape[1:]), network.architecture.image
    if text != (network.architecture.reads is not None):
        kinds = ("images", "text") if text else ("text", "images")
        raise ValueError(f"the models read {kinds[0]}, but {data.name!r} holds {kinds[1]}: name other data with --data")
    if fits and shape != fits:
        raise ValueError(
            f"the models read images of shape {fits} (channels, height, width), but {data.name!r} has {shape}: "
            "give --data FOLDER with images of that size"
        )
    outputs, largest = network(inputs[:1]).shape[-1], max(int(targets.max()), len(data.classes) - 1)
    if largest >= outputs:
        raise ValueError(
            f"{data.name!r} has {largest + 1} classes, but the models tell only {outputs} apart: "
            "give --data FOLDER with the classes that they were trained on"
        )


if __name__ == "__main__":
    main()
