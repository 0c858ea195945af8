"""Kill runs of the command line at random moments and look at what they leave: ``python tests/kills.py --count 100``.

Each run is a fork of this process, in which all is imported already, so that the moments fall into the work, not into
the imports. This process never trains: a fork of one that did cannot.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from glob import glob
from pathlib import Path

import accelerate  # noqa: F401 (the forks need it)
import timm
import torch
from safetensors.torch import load_file

import lmc_utils as lmc
from lmc_utils.__main__ import main
from lmc_utils.storage import read_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}


def start(command: list[str]) -> int:
    """Run a command line in a fork and return its process number."""
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    code = 1
    try:
        main(command)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    """The exit status of a fork, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(command: list[str], out: Path, number: signal.Signals, seconds: float) -> int:
    """Start a command and end it: half of the time at any moment, half of the time while it writes."""
    pid, deadline = start(command), time.monotonic() + random.uniform(0, seconds)
    if random.random() < 0.5:
        deadline = time.monotonic() + 5 * seconds
        while (
            time.monotonic() < deadline and not glob(f"{out.parent}/.*") and not glob(f"{out}/.*")
        ):  # either may vanish
            time.sleep(0.0005)
        deadline = time.monotonic() + random.choice([0, random.uniform(0, 0.05), random.uniform(0, seconds)])
    time.sleep(max(0, deadline - time.monotonic()))
    os.kill(pid, number)
    return finish(pid)


def same(path: Path, other: Path) -> bool:
    """Whether two files hold the same tensors to the last bit."""
    a, b = load_file(path), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def prepare(folder: Path) -> dict[str, tuple[list[str], str]]:
    """For each command its arguments without ``--out``, and the name of the file of weights inside of it."""
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT).eval()
        timm.models.save_for_hf(model, folder / name, model_args=VIT, safe_serialization=True)
    lmc.load_data("digits")  # the forks find it in memory
    return {
        "align": (["align", str(folder / "a"), str(folder / "b"), "--data", "digits", "--points", "3"],
                  "model.safetensors"),
        "train": (["train", "mlp", "--data", "digits", "--hidden", "8", "--epochs", "4"], "mlp-seed0.safetensors"),
    }  # fmt: skip


def kills(count: int, folder: Path) -> Counter:
    """Kill ``count`` runs, and count what was found."""
    found, wholes, seconds = Counter(), {}, {}
    commands = prepare(folder)
    for name, (command, weights) in commands.items():
        began = time.monotonic()
        assert finish(start([*command, "--out", str(folder / f"whole-{name}")])) == 0, f"{name} does not run"
        wholes[name], seconds[name] = folder / f"whole-{name}" / weights, time.monotonic() - began
    command, weights = commands["align"]
    twins = [start([*command, "--out", str(folder / "twins")]) for _ in range(2)]
    assert sorted(map(finish, twins)) == [0, 1], "of two runs with one --out not just one got it"
    assert same(folder / "twins" / weights, wholes["align"]), "two runs with one --out left a torn folder"
    for i in range(count):
        name, number = list(commands)[i % 2], SIGNALS[i // 2 % 3]
        command, weights = commands[name]
        place = folder / "killed"  # a folder of its own: a piece may lie beside or inside of the target
        place.mkdir()
        out = place / "out"
        command = [*command, "--out", str(out)]
        status = kill(command, out, number, seconds[name])
        found[number.name] += 1
        found["ended before"] += status == 0
        if status not in (0, -number, 128 + number):
            found["wrong status"] += 1
            print(f"{name} ended by {number.name} has exit status {status}", file=sys.stderr)
        pieces = [path for path in place.rglob("*") if path.name.startswith(".")]
        found["left by SIGKILL" if number == signal.SIGKILL else "left by others"] += len(pieces)
        if os.path.lexists(out / weights) or (name == "align" and os.path.lexists(out)):
            good = (out / weights).is_file() and same(out / weights, wholes[name])
            found["whole" if good else "torn"] += 1
        if (out / "mlp-seed0.unfinished").exists():
            read_checkpoint(out / "mlp-seed0.unfinished")
            found["unfinished"] += 1
        if name == "train":
            assert finish(start(command)) == 0, "a run that was killed does not go on"
            found["resumed"] += 1
            found["resumed equal"] += same(out / weights, wholes[name])
        shutil.rmtree(place)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    random.seed(args.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        n = kills(args.count, Path(scratch))
    signals = ", ".join(f"{n[number.name]} {number.name}" for number in SIGNALS)
    print(
        f"{args.count} kills ({signals}); ended before: {n['ended before']}\n"
        f"under final names: {n['whole']} whole, {n['torn']} torn; .unfinished: {n['unfinished']}, all read\n"
        f"pieces left: {n['left by others']} by SIGTERM and SIGINT, {n['left by SIGKILL']} by SIGKILL\n"
        f"resumed: {n['resumed']}, to the last bit as uninterrupted: {n['resumed equal']}; "
        f"wrong exit status: {n['wrong status']}"
    )
    sys.exit(bool(n["torn"] or n["left by others"] or n["wrong status"] or n["resumed"] != n["resumed equal"]))
