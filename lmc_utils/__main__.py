"""The command line: ``python -m lmc_utils train mlp --seed 0``."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .checkpoints import load_pair, load_tokenizer, save_model
from .data import ASSETS, TOKENIZER, Data, load_data, verify
from .endpoints import BUILDERS, PRESETS, augmentation, save_checkpoint, shaped
from .matching import weight_matching
from .networks.base import Architecture
from .paths import evaluate, interpolate, merge
from .symmetry import LEVELS
from .train import train

RECIPE = set(train.__kwdefaults__) - {"augment", "validation", "seed", "checkpoint"}  # these the command decides


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run; errors of the user's making end in one line, not in a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m lmc_utils", description="Linear mode connectivity modulo symmetry."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    command = commands.add_parser("train", help="make an end point", **defaults)
    command.add_argument("architecture", choices=list(BUILDERS))
    command.add_argument("--preset", choices=list(PRESETS), help="which recipe; default: the architecture's own")
    command.add_argument("--seed", type=int, default=0, help="of the initial weights and of the order of the data")
    command.add_argument("--data", help="a shipped data set, a hub name or a local folder; default: the preset's")
    command.add_argument("--measure", help="data to measure losses on; default: those of the training")
    command.add_argument("--config", type=changes, default={}, help="changes of the preset's network, as JSON")
    command.add_argument("--recipe", type=changes, default={}, help="changes of lmc.train's arguments, as JSON")
    for name, kind in (("epochs", float), ("batch-size", int), ("lr", float), ("weight-decay", float)):
        command.add_argument(f"--{name}", type=kind, help="instead of the preset's")
    command.add_argument("--hidden", type=int, nargs="+", help="units of each hidden layer of an mlp")
    command.add_argument("--half", action="store_true", help="store float16, if the loss does not move by over 1e-3")
    command.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder to write to")
    command.set_defaults(run=train_endpoint)
    command = commands.add_parser("align", help="align two saved models by their weights and merge them", **defaults)
    command.add_argument("a", metavar="A", type=Path, help="folder of a saved GPT-2 or timm Vision Transformer")
    command.add_argument("b", metavar="B", type=Path, help="folder of another one of the same shape")
    command.add_argument("--out", type=Path, required=True, help="folder to make, for the merged model")
    command.add_argument("--lam", type=float, default=0.5, help="position between A (0) and the aligned B (1)")
    command.add_argument("--allow", choices=LEVELS, default="invertible", help="largest class of symmetries to use")
    command.add_argument("--data", default=None, help="data for the barrier; default: what ships and fits")
    command.add_argument("--points", type=int, default=25, help="size of the grid of lambda for the barrier")
    command.set_defaults(run=align)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last finished epoch")


def changes(text: str) -> dict:
    """A JSON object."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'it takes an object such as {{"lr": 0.001}}, not {text}')
    return found


def train_endpoint(args: argparse.Namespace) -> None:
    """Train one end point and write it; a run that was interrupted goes on where it stopped."""
    from accelerate import PartialState

    name = args.preset or args.architecture
    preset = PRESETS[name]
    if preset.architecture != args.architecture:
        raise ValueError(f"preset {name!r} is for {preset.architecture!r}, not for {args.architecture!r}")
    flags = {key: getattr(args, key) for key in ("epochs", "batch_size", "lr", "weight_decay")}
    recipe = preset.recipe | args.recipe | {key: value for key, value in flags.items() if value is not None}
    if unknown := set(recipe) - RECIPE:
        raise ValueError(f"--recipe has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(RECIPE))}")
    settings = preset.config | args.config | ({"hidden": args.hidden} if args.hidden else {})
    context = settings.get("n_positions", 128)
    data = load_data(args.data or preset.data, context=context)
    config = shaped(preset.architecture, settings, data)
    torch.manual_seed(args.seed)
    try:
        model = BUILDERS[args.architecture](**config)
    except TypeError as error:
        raise ValueError(f"there is no such {args.architecture}: {error}") from error
    path = args.out / f"{name}-seed{args.seed}.safetensors"
    unfinished = path.with_suffix(".unfinished")
    batches = data.train if preset.samples is None else data.train.take(preset.samples)
    validation = data.validation
    if recipe.get("patience") and validation is None:  # the last twentieth is held out
        count = len(batches.inputs)
        batches, validation = batches.cut(count - max(1, count // 20))
    samples = len(batches.inputs)
    augment = augmentation(preset.augment, data) if preset.augment else None
    model = train(
        model, batches, **recipe, augment=augment, validation=validation, seed=args.seed, checkpoint=unfinished
    )
    if not PartialState().is_main_process:
        return
    if args.measure:
        data = load_data(args.measure, context=context)
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
    source = Path(args.data or preset.data).name  # a folder's name, not where it lies on this machine
    save_checkpoint(path, model, args.architecture, config, preset=name, seed=args.seed, data=source, recipe=recipe,
                    samples=samples, augment=preset.augment, **results)  # fmt: skip
    unfinished.unlink()
    print(f"{path}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in results.items()))


def align(args: argparse.Namespace) -> None:
    """Match B to A by weights, say what it did to the barrier, and save the merged model."""
    if args.out.exists():
        raise FileExistsError(f"{args.out} exists: choose another folder, nothing was written")
    a, b = load_pair(args.a, args.b)
    merge(a, b, args.lam)  # a wrong lambda is told before the work, not after it
    data = data_for(a.architecture, args.data, args.a, args.b)
    g = weight_matching(a, b, allow=args.allow)
    print(f"weight matching: {len(g.history) - 1} sweeps, score {g.history[0]:.1f} -> {g.history[-1]:.1f}")
    merged = merge(a, g(b), args.lam)
    for name, other in (("before", b), ("after", g(b))):
        curve = interpolate(a, other, data.test, points=args.points)
        ends = f"ends {curve.loss[0]:.3f} and {curve.loss[-1]:.3f}"
        print(f"barrier {name} alignment on {data.name}: {curve.barrier:.4f} nats at {curve.barrier_at:.2f} ({ends})")
    save_model(merged, args.out, like=args.a)
    print(f"{args.out}: the model at lambda = {args.lam:g}, loss {evaluate(merged, data.test).loss:.4f} nats")


def data_for(architecture: Architecture, name: str | None, *folders: Path) -> Data:
    """The data for the barrier, text in the tokens and windows that models of this architecture read.

    Raises
    ------
    ValueError
        If the tokens are not those of the models' vocabulary.
    """
    name, windows = name or architecture.data, {}
    if architecture.reads:
        vocabulary, positions = architecture.reads
        own = next(filter(None, map(load_tokenizer, folders)), None)
        size = (own or Tokenizer.from_file(str(verify(ASSETS / TOKENIZER)))).get_vocab_size()
        if size > vocabulary or (own is None and size != vocabulary):
            whose = "their tokenizer.json" if own else "the shipped tokenizer (there is no tokenizer.json beside them)"
            raise ValueError(f"the models have a vocabulary of {vocabulary} tokens, but {whose} has {size}")
        windows = {"context": min(128, positions), "tokenizer": own}
    return load_data(name, batch_size=50, **windows)


if __name__ == "__main__":
    main()
