"""The command line: ``python -m lmc_utils train mlp --seed 0``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .data import load_data
from .endpoints import BUILDERS, save_checkpoint
from .paths import evaluate
from .train import train


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run; errors of the user's making end in one line, not in a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m lmc_utils", description="Linear mode connectivity modulo symmetry."
    )
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "train", help="make an end point", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_argument("architecture", choices=list(BUILDERS))
    command.add_argument("--seed", type=int, default=0, help="of the initial weights and of the order of the data")
    command.add_argument("--data", default="fashion-mnist", help="a shipped data set, a hub name or a local folder")
    command.add_argument("--hidden", type=int, nargs="+", default=[256, 256, 256], help="units of each hidden layer")
    command.add_argument("--epochs", type=int, default=8)
    command.add_argument("--batch-size", type=int, default=128)
    command.add_argument("--lr", type=float, default=1e-3, help="first learning rate of AdamW")
    command.add_argument("--weight-decay", type=float, default=0.0)
    command.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder to write to")
    command.set_defaults(run=train_endpoint)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last finished epoch")


def train_endpoint(args: argparse.Namespace) -> None:
    """Train one end point and write it; a run that was interrupted goes on where it stopped."""
    data = load_data(args.data)
    config = {"widths": [data.train.inputs[0].numel(), *args.hidden, len(data.classes)]}
    torch.manual_seed(args.seed)
    model = BUILDERS[args.architecture](**config)
    path = args.out / f"{args.architecture}-seed{args.seed}.safetensors"
    unfinished = path.with_suffix(".unfinished")
    recipe = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "weight_decay": args.weight_decay}
    model = train(model, data.train, **recipe, seed=args.seed, checkpoint=unfinished)
    results = {
        f"{split}_{name}": round(value, 5)
        for split, batches in (("train", data.train), ("test", data.test))
        for name, value in zip(("loss", "accuracy"), evaluate(model, batches), strict=False)
    }
    save_checkpoint(path, model, args.architecture, config, seed=args.seed, data=args.data, recipe=recipe, **results)
    unfinished.unlink()
    print(f"{path}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in results.items()))


if __name__ == "__main__":
    main()
