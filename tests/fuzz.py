"""Fuzzing: many generated inputs for everything that reads what others wrote, and what went wrong with them.

``python tests/fuzz.py --count 100000 --seed 0`` (or ``make fuzz``) prints one line a group. A bad input may end in an
error of a declared type, and in nothing else: no other error, no wrong answer, no file left behind, no file opened
outside of the input, no code run, no answer later than ten seconds. Each finding is written to ``_build/fuzz`` with
the command that repeats it: an input is made from its group, the seed and its number alone.
"""

# ruff: noqa: E402 (the libraries read the environment when they are imported)
from __future__ import annotations

import argparse
import atexit
import base64
import collections
import contextlib
import copy
import faulthandler
import importlib.util
import inspect
import io
import json
import linecache
import logging
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from xml.etree import ElementTree

MEMORY = Path("/dev/shm")
PLACE = Path(tempfile.mkdtemp(prefix="lmc-fuzz-", dir=MEMORY if MEMORY.is_dir() else None)).resolve()
ROOT = Path(__file__).resolve().parent.parent
OWNER = os.getpid()
if __name__ == "__main__":  # before the libraries are imported
    sys.path.insert(0, str(ROOT))
    os.environ |= {"HF_HOME": str(PLACE / "hub"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import datasets
import matplotlib
import numpy as np
import pandas as pd
import timm
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load as parse
from safetensors.torch import load_file
from torch import Tensor

import lmc_utils as lmc
from lmc_utils import __main__ as command_line
from lmc_utils.data import Batches, Data, encode
from lmc_utils.networks.mlp import mlp
from lmc_utils.zoo.folders import load_tokenizer

FINDINGS = ROOT / "_build" / "fuzz"
PACKAGE = Path(lmc.__file__).resolve().parent
PATIENCE = 10  # seconds that an input may take
LONGEST = 500  # characters of a clear message

# ---------------------------------------------------------------------------------------------- judging one input


@dataclass(frozen=True)
class Case:
    """One input: what it is, in words, and what to do with it. ``run`` raises :class:`Wrong` for a wrong answer."""

    what: str
    run: Callable[[], object]
    declared: tuple[type[BaseException], ...] = (ValueError, TypeError, OSError)


class Wrong(Exception):
    """The input was accepted, and what came of it is wrong."""


class Left(Exception):
    """The input was refused, and something was written all the same."""


class Outside(Exception):
    """Something beside the input was opened, called or run."""


class Hang(BaseException):
    """No answer in time."""


@dataclass(frozen=True)
class Outcome:
    """How an input ended: ``kind`` is ``accepted``, ``refused``, or what the finding is called."""

    kind: str
    error: str = ""
    message: str = ""
    where: str = ""
    unclear: str = ""  # why the message of a refusal is not clear

    @property
    def bad(self) -> bool:
        return self.kind not in ("accepted", "refused")


class Watch:
    """An audit hook that notes what an input did beside reading its folder, and stops it from doing worse."""

    FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen", "os.system", "os.exec",
                 "os.posix_spawn", "os.fork", "pickle.find_class", "urllib.Request", "ctypes.dlopen")  # fmt: skip
    SYSTEM = tuple(map(str, (sys.prefix, sys.base_prefix, PACKAGE, PLACE / "hub", "/proc", "/sys", "/dev/null")))

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        if self.folder is None:
            return
        if event.startswith(self.FORBIDDEN) and not (event == "ctypes.dlopen" and "site-packages" in str(args)):
            self.seen.append(f"{event} {str(args)[:200]}")
            raise PermissionError(f"fuzz: {event}")
        if event == "open" and isinstance(args[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(args[0]))
            if not path.startswith((str(self.folder), *self.SYSTEM)):
                self.seen.append(f"open {path}")

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Raise :class:`Outside` if the block, which may itself fail, does more than read this folder."""
        self.folder, self.seen = folder, []
        try:
            yield
        finally:
            self.folder = None
            if self.seen:
                raise Outside("; ".join(self.seen[:3]))


WATCH = Watch()


@atexit.register
def clean() -> None:
    if os.getpid() == OWNER:  # not a child's end
        shutil.rmtree(PLACE, ignore_errors=True)


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """Raise :class:`Hang` after ten seconds; after a minute in one call of C, say where it is and give up."""

    def ring(*_: object) -> None:
        raise Hang(f"no answer in {PATIENCE} seconds")

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)  # again each second, should something catch it
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, old)


def judge(case: Case) -> Outcome:
    """Run one input, and say how it ended."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            with deadline():
                case.run()
        except (Wrong, Left, Outside, Hang) as error:
            where = place_of(error) if isinstance(error, Hang) else ""
            return Outcome(type(error).__name__.lower(), type(error).__name__, str(error), where)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return refusal(case, error)
    return Outcome("accepted")


def refusal(case: Case, error: BaseException) -> Outcome:
    """What an error counts as."""
    message, where = str(error), place_of(error)
    kind = next((kind for kind in case.declared if isinstance(error, kind)), None)
    if kind is None:
        return Outcome("undeclared", type(error).__name__, message, where)
    if "can't allocate" in message or "allocate memory" in message:
        return Outcome("undeclared", "MemoryError", message, where)
    unclear = ""
    if len(message) > LONGEST or "\n" in message.strip():
        unclear = "long"
    elif kind in (ValueError, TypeError) and not raised_here(error):
        unclear = "accident"
    return Outcome("refused", kind.__name__, message, where, unclear)


def place_of(error: BaseException) -> str:
    """The last line of the package that an error came through, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(PACKAGE))]
    shown = (f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (own or frames)[-1:] + frames[-1:])
    return " > ".join(dict.fromkeys(shown))


def raised_here(error: BaseException) -> bool:
    """Whether the package itself says ``raise``: other errors of a declared type are right by accident."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    own = last.filename.startswith(str(PACKAGE)) or "argparse" in last.filename
    return own and linecache.getline(last.filename, last.lineno).strip().startswith("raise")


@contextlib.contextmanager
def leaves_nothing(folder: Path, *, kept: str = "") -> Iterator[None]:
    """Raise :class:`Left` if what was refused changed a folder; names that end in ``kept`` may be new."""

    def listing() -> set[tuple[str, int]]:
        found = ((path, path.lstat()) for path in folder.rglob("*"))
        return {(str(path.relative_to(folder)), stat.st_mtime_ns) for path, stat in found if path.is_file()}

    before = listing()
    try:
        yield
    except Exception as error:
        new = {name for name, _ in listing() - before if not (kept and name.endswith(kept))}
        if new:
            raise Left(f"{type(error).__name__}, and yet there is {sorted(new)}") from error
        raise


# ---------------------------------------------------------------------------------------------- hostile values

TEXTS = ("", " ", "relu", "x" * 5000, "\x00", "a\nb", "\x1b[31m", "é\u202e", "\ud800", "../..", "/", "hf-hub:a/b",
         "local-dir:/etc", "http://127.0.0.1:9/x.pt", "<script>alert(1)</script>", "{0}", "%s", "nan")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 2.5, -0.5, 1e-300, 1e308, 10**9, 2**31, 2**63, 10**30, float("nan"), float("inf"),
           -float("inf"))  # fmt: skip
PLAIN = (None, True, False, [], {}, [1], [[]], [None], {"a": 1}, {"": None}, [0.5, 0.5], ["a", "b"])
DANGEROUS = (
    {"pretrained": True}, {"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}},
    {"pretrained": True, "pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth", "custom_load": True}},
    {"pretrained": True, "pretrained_cfg": {"file": "/etc/hostname"}}, {"pretrained_cfg_overlay": {"url": "x"}},
    {"checkpoint_path": "/etc/hostname"}, {"cache_dir": "/dev/shm/lmc-fuzz-bait"}, {"features_only": True},
    {"scriptable": True}, {"exportable": True}, {"no_jit": True}, {"weight_init": "jax"}, {"fused_attn": True},
    {"auto_map": {"AutoModelForCausalLM": "bait.Bait"}}, {"trust_remote_code": True},
    {"attn_implementation": "kernels-community/flash-attn"}, {"_attn_implementation": "kernels-community/x"},
    {"_attn_implementation": "flash_attention_2"}, {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"torch_dtype": "float16"}, {"dtype": "auto"},
    {"torch_dtype": "os.system"}, {"architectures": ["GPT2Model"]}, {"architectures": ["LlamaModel"]},
    {"architectures": ["../x.Y"]}, {"architectures": ["BertModel", "BertForMaskedLM"]}, {"rope_theta": 1e300},
    {"rope_parameters": {"rope_type": "linear", "factor": 1e300}}, {"rope_scaling": {"type": "x", "factor": [[1]]}},
    {"rope_parameters": {"full_attention": {"factor": {"a": {}}}}}, {"partial_rotary_factor": 1e6}, {"head_dim": 3},
    {"per_layer_config": {"0": {"hidden_size": 9}}}, {"num_hidden_layers": 10**9}, {"id2label": {"0": {"a": 1}}},
    {"position_embedding_type": "relative_key"}, {"hidden_act": "swiglu"}, {"_experts_implementation": "a/b"},
    {"architectures": ["GPT2ForSequenceClassification"]},
    {"architectures": ["GPT2DoubleHeadsModel"]}, {"architectures": []}, {"_name_or_path": "gpt2"},
    {"pruned_heads": {"0": [0]}}, {"add_cross_attention": True}, {"is_decoder": True}, {"is_encoder_decoder": True},
    {"use_kernels": True}, {"base_model_tp_plan": {"layers.*": "colwise"}}, {"transformers_version": "99"},
    {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"reorder_and_upcast_attn": True},
    {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"resid_pdrop": 0.9}, {"attn_pdrop": 2.0},
    {"layer_norm_epsilon": 0.1}, {"activation_function": "relu"}, {"activation_function": "swiglu"},
    {"norm_layer": "rmsnorm"}, {"act_layer": "relu"}, {"act_layer": "os.system"}, {"qk_norm": True},
    {"init_values": 1e-5}, {"pre_norm": True}, {"reg_tokens": 2}, {"dynamic_img_size": True}, {"class_token": False},
    {"no_embed_class": True}, {"pool_include_prefix": True}, {"fc_norm": True}, {"qkv_bias": False},
    {"proj_bias": False}, {"pos_embed": "none"}, {"final_norm": False}, {"drop_rate": 0.5}, {"block_fn": "x"},
    {"block_fn": "ParallelScalingBlock"}, {"mlp_layer": "SwiGLU"}, {"embed_layer": "HybridEmbed"}, {"img_size": 16},
)  # fmt: skip
OTHERS = (
    [], "gpt2", None, 7, {}, {"model_type": "gpt2"}, {"model_type": "bert"}, {"model_type": ["gpt2"]},
    {"architecture": "vit_tiny_patch16_224"}, {"architecture": "resnet18"}, {"architecture": 7}, {"architecture": None},
    {"architecture": "hf-hub:a/b", "num_classes": 3, "global_pool": "avg", "model_args": {}},
    {"architecture": "local-dir:/etc", "num_classes": 3, "global_pool": "avg", "model_args": {}},
    {"architecture": "timm/../../x", "num_classes": 3, "global_pool": "token"}, {"architectures": ["GPT2LMHeadModel"]},
    {"architecture": "vit_giant_patch14_224", "num_classes": 3, "global_pool": "token", "model_args": {}},
    {"model_type": "gpt2", "architecture": "vit_tiny_patch16_224"}, {"model_type": "gpt2", "n_layer": 100_000},
    {"model_type": "gpt2", "n_embd": 60_000, "n_head": 1}, {"model_type": "gpt2", "vocab_size": 10**12},
)  # fmt: skip


def hostile(random: Random) -> Any:
    """A value as JSON may hold it."""
    return copy.deepcopy(random.choice(random.choice((TEXTS, NUMBERS, PLAIN))))


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:120]}... ({len(text)} characters)"


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in nested lists and dicts, as the container and the key in it."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in list(pairs) for place in [(tree, key), *places(value)]]


def tweak(random: Random, tree: Any) -> str:
    """Change one place of nested lists and dicts, and say how."""
    if not (found := places(tree)):
        return "nothing to change"
    inside, key = random.choice(found)
    match random.randrange(6):
        case 0:
            inside.pop(key)
            return f"delete {key!r}"
        case 1 if isinstance(inside, dict):
            name = random.choice((f"{key}x", "", str(key).upper(), hostile(random)))
            inside[name if isinstance(name, str) else "1"] = inside.pop(key)
            return f"rename {key!r} to {name!r:.60}"
        case 2 if isinstance(inside[key], (int, float)):
            inside[key] = random.choice(
                (inside[key] * 2, -inside[key], inside[key] + 1, inside[key] - 1, inside[key] / 2)
            )
        case 3:
            inside[key] = random.choice(([inside[key]], {"value": inside[key]}, str(inside[key])))
        case _:
            inside[key] = hostile(random)
    return f"set {key!r} to {short(inside[key])}"


def scramble(random: Random, content: bytes) -> tuple[str, bytes]:
    """Damage bytes as disks and editors do."""
    at = random.randrange(len(content) + 1)
    match random.randrange(6):
        case 0:
            return f"cut after {at} bytes", content[:at]
        case 1:
            return "empty", b""
        case 2:
            return f"insert at {at}", content[:at] + random.randbytes(random.choice((1, 8, 100))) + content[at:]
        case 3:
            return "append", content + random.choice((b"\n", b"\x00" * 9, b"}", content[:40]))
        case 4:
            return f"remove 3 bytes at {at}", content[:at] + content[at + 3 :]
        case _:
            flipped = bytearray(content)
            where = [random.randrange(len(flipped)) for _ in range(random.choice((1, 1, 3)))] if flipped else []
            for place in where:
                flipped[place] ^= 1 << random.randrange(8)
            return f"flip bits at {where}", bytes(flipped)


def odd_json(random: Random, content: bytes) -> tuple[str, bytes]:
    """The same JSON in ways that parsers stumble over."""
    ways = {
        "byte order mark": b"\xef\xbb\xbf" + content, "UTF-16": content.decode(errors="replace").encode("utf-16"),
        "nested deep": b"[" * 100_000,
        "nested deep in a value": content[:1] + b'"a":' + b"[" * 60_000 + b"," + content[1:],
        "a number of 5000 digits": content[:1] + b'"n_layer":' + b"9" * 5000 + b"," + content[1:],
        "a key twice": content[:1] + content[1:-1] + b"," + content[1:], "Latin-1": b'{"model_type": "\xe9"}',
        "NaN": content[:1] + b'"a": NaN,' + content[1:],
        "a lone surrogate": content[:1] + b'"\\ud800": 1,' + content[1:],
    }  # fmt: skip
    name = random.choice(list(ways))
    return name, ways[name]


# ---------------------------------------------------------------------------------------------- safetensors

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 7)


def split(content: bytes) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header: Any, data: bytes, size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def change_tensors(random: Random, content: bytes) -> tuple[str, bytes]:
    """Damage a safetensors file in its own terms: names, shapes, types, offsets, values."""
    header, data = split(content)
    names = [name for name in header if name != "__metadata__"]
    name, other = random.choice(names), random.choice(names)
    entry = header[name]
    begin, end = entry["data_offsets"]
    match random.randrange(12):
        case 0:  # rewritten without it, as a program does that forgets one
            return f"without {name}", join(*without(header, data, name))
        case 1:
            new = random.choice((f"{name}x", f"module.{name}", name.removeprefix("transformer."), "x", "", other))
            return f"{name} is called {new}", join({new if n == name else n: v for n, v in header.items()}, data)
        case 2:
            entry["shape"] = random.choice((entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]],
                                            [int(np.prod(entry["shape"]))], [0], [-1], [2**62, 4],
                                            hostile(random)))  # fmt: skip
            return f"shape of {name} is {short(entry['shape'])}", join(header, data)
        case 3:
            entry["dtype"] = random.choice(DTYPES)
            return f"type of {name} is {entry['dtype']!r}", join(header, data)
        case 4:
            entry["data_offsets"] = random.choice(
                ([end, begin], [begin, end + 8], [0, 2**63], [-8, end], [begin], None)
            )
            return f"offsets of {name} are {entry['data_offsets']}", join(header, data)
        case 5:
            entry["data_offsets"], header[other]["data_offsets"] = header[other]["data_offsets"], [begin, end]
            return f"{name} and {other} change places", join(header, data)
        case 6:
            size = random.choice((0, 1, 2**32, 2**63, 2**64 - 1, len(content)))
            return f"length of the header is {size}", join(header, data, size)
        case 7:
            header[random.choice(("extra.weight", "h.7.ln_1.weight", "score.weight", "blocks.9.norm1.weight"))] = {
                "dtype": "F32", "shape": [4], "data_offsets": [len(data), len(data) + 16]}  # fmt: skip
            return "one tensor more", join(header, data + bytes(16))
        case 8:
            values = random.choice(
                (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f")
            )  # NaN, infinity, largest
            return f"{values.hex()} in {name}", join(header, data[:begin] + values + data[begin + 4 :])
        case 9:
            header["__metadata__"] = hostile(random)
            return f"metadata {short(header['__metadata__'])}", join(header, data)
        case 10:
            tensors = {n: t.to(random.choice((torch.float16, torch.float64, torch.bfloat16, torch.int64))) if n == name
                       else t for n, t in parse(content).items()}  # fmt: skip
            return f"{name} as {tensors[name].dtype}", pack(tensors, header.get("__metadata__"))
        case _:
            how = tweak(random, header)
            return f"header: {how}", join(header, data)


def without(header: dict, data: bytes, name: str) -> tuple[dict, bytes]:
    """A header and data that lack one tensor and have no hole."""
    begin, end = header[name]["data_offsets"]
    rest = {n: dict(e) for n, e in header.items() if n != name}
    for n, entry in rest.items():
        if n != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return rest, data[:begin] + data[end:]


def pack(tensors: dict[str, Tensor], metadata: dict | None = None) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, metadata)


def check_weights(model: torch.nn.Module, folder: Path) -> None:
    """Raise :class:`Wrong` unless all weights of a model are those of its files, and none of these is left over."""
    stored: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(Exception):  # what cannot be read was not read
            stored |= load_file(file)
    aliases = collections.defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases[id(parameter)].append((name, parameter))
    used, prefix = set(), f"{getattr(model, 'base_model_prefix', '')}."
    for group in aliases.values():
        names = {n for name, _ in group for n in (name, name.removeprefix(prefix), prefix + name)} & set(stored)
        if not names:
            raise Wrong(f"{group[0][0]} is in no file, and the model was loaded: its weights are random")
        for name in names:
            value, kept = group[0][1].double(), stored[name].double()
            if value.shape != kept.shape or not torch.allclose(value, kept, rtol=0, atol=0, equal_nan=True):
                raise Wrong(f"{name} is not what the file holds")
        used |= names
    if ignored := set(stored) - used - {name for name, _ in model.named_buffers()}:
        raise Wrong(f"the file's {sorted(ignored)[:3]} was ignored")


@torch.no_grad()
def check_logits(model: torch.nn.Module) -> None:
    """Raise :class:`Wrong` unless the canonical form answers as the model does; in float64, where weights are sane."""
    network = lmc.canonicalize(model)
    weights = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    if not weights.isfinite().all() or weights.abs().max() > 1e3:
        return
    model = copy.deepcopy(model).double()
    network = lmc.canonicalize(model)
    if network.architecture.reads:
        vocabulary, positions = network.architecture.reads
        probe = torch.arange(min(4, positions)).remainder(vocabulary)[None]
    elif hasattr(model, "patch_embed"):
        size = (1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
        probe = torch.linspace(-1, 1, int(np.prod(size)), dtype=torch.float64).view(size)
    else:
        probe = torch.linspace(-1, 1, model[1].in_features, dtype=torch.float64)[None]
    output = model(probe)
    expected, found = getattr(output, "logits", output), network(probe)
    error, scale = (found - expected).abs().max(), 1 + expected.abs().max()
    if not error <= 1e-6 * scale:
        raise Wrong(f"the canonical form answers differently: by {error:.2g} where logits reach {scale - 1:.2g}")


# ---------------------------------------------------------------------------------------------- small models

GPT2 = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 8, "vocab_size": 16, "bos_token_id": 0,
        "eos_token_id": 0}  # fmt: skip
TEXT = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip
VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 1, "num_heads": 2}
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "a", "rose", "by", "any", "other", "name", "smell"]


def gpt2(seed: int = 0, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | changes)).eval()


def vit(seed: int = 0, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT | changes).eval()


def small_mlp(seed: int = 0, widths: tuple[int, ...] = (4, 5, 3)) -> torch.nn.Module:
    torch.manual_seed(seed)
    return mlp(widths).eval()


def save_vit(model: torch.nn.Module, folder: Path, **changes: Any) -> None:
    timm.models.save_for_hf(model, folder, model_args=VIT | changes, safe_serialization=True)


@cache
def tokenizer() -> tokenizers.Tokenizer:
    """Sixteen words."""
    known = tokenizers.models.WordLevel({word: i for i, word in enumerate(["?", *WORDS])}, unk_token="?")
    made = tokenizers.Tokenizer(known)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@cache
def folders() -> dict[str, dict[str, bytes]]:
    """Seeds: the files of small saved models."""
    place = PLACE / "seeds"
    gpt2().save_pretrained(place / "gpt2")
    gpt2(tie_word_embeddings=False).save_pretrained(place / "gpt2-untied")
    gpt2(n_layer=2).save_pretrained(place / "gpt2-sharded", max_shard_size=2000)
    save_vit(vit(), place / "vit")
    avg = {"global_pool": "avg", "class_token": False, "qkv_bias": False}
    save_vit(vit(**avg), place / "vit-avg", **avg)
    gpt2().half().save_pretrained(place / "gpt2-half")
    torch.manual_seed(0)
    config = transformers.GPT2Config(**GPT2, pad_token_id=0, num_labels=3)
    transformers.GPT2Model(config).save_pretrained(place / "gpt2-headless")  # tied: its head is known
    transformers.GPT2ForSequenceClassification(config).save_pretrained(place / "gpt2-classifier")  # no language model
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4}
    llama = transformers.LlamaConfig(**TEXT, num_key_value_heads=1, rope_parameters=rope)
    transformers.LlamaForCausalLM(llama).save_pretrained(place / "llama")
    transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)).save_pretrained(place / "bert")
    return {folder.name: read_folder(folder) for folder in place.iterdir()}


def fill(folder: Path, files: dict[str, bytes | None]) -> Path:
    """Make a folder anew, with these files (None: a folder of this name)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if content is None else place.write_bytes(content)
    return folder


def clear(folder: Path) -> Path:
    return fill(folder, {})


# ---------------------------------------------------------------------------------------------- the groups


class Group:
    """A kind of inputs: ``make(random)`` gives one, and nothing but ``random`` decides which."""

    name: ClassVar[str]
    share: ClassVar[float]  # of all inputs

    def make(self, random: Random) -> Case:
        raise NotImplementedError


class Models(Group):
    """Folders of saved models: loaded, brought into canonical form, and compared with what the files hold."""

    name, share = "models", 0.32

    def make(self, random: Random) -> Case:
        kind = random.choice(list(folders()))
        files: dict[str, bytes | None] = dict(folders()[kind])
        steps = [self.damage(random, files) for _ in range(random.choice((1, 1, 1, 1, 2, 3)))]
        return Case(f"{kind}: " + "; ".join(steps), partial(self.load, files))

    def damage(self, random: Random, files: dict[str, bytes | None]) -> str:
        """Change the files at one place, and say how."""
        config = files.get("config.json")
        whole = [name for name in files if name.endswith(".safetensors") and files[name]]
        what = random.randrange(10)
        if what < 5 and config:
            try:
                tree = json.loads(config)
            except (ValueError, RecursionError):  # damaged before
                tree = {}
            how = self.reconfigure(random, tree, what)
            if what == 4:
                how, files["config.json"] = random.choice((odd_json, scramble))(random, config)
            else:
                files["config.json"] = json.dumps(self.other if what == 3 else tree).encode()
            return f"config: {how}"
        if what < 8 and whole:
            name = random.choice(whole)
            with contextlib.suppress(Exception):  # damaged before
                how, files[name] = change_tensors(random, files[name])
                return f"{name}: {how}"
        if what == 8 and whole:
            name = random.choice(whole)
            how, files[name] = scramble(random, files[name])
            return f"{name}: {how}"
        if (index := "model.safetensors.index.json") in files and files[index]:
            tree = json.loads(files[index])
            how = tweak(random, tree)
            if random.random() < 0.3 and isinstance(tree.get("weight_map"), dict) and tree["weight_map"]:
                name, file = random.choice(list(tree["weight_map"])), random.choice(("/etc/hostname", "../x", "", 7))
                tree["weight_map"][name], how = file, f"{name} is in {file!r}"
            files[index] = json.dumps(tree).encode()
            return f"index: {how}"
        name = random.choice(list(files))
        files[name] = random.choice((None, b"", b"{}", b"junk"))
        return f"{name} is {files[name]!r}"

    def reconfigure(self, random: Random, tree: Any, what: int) -> str:
        if what == 3:
            self.other = random.choice(OTHERS)
            return f"is {short(self.other)}"
        if what == 2 and isinstance(tree, dict):
            danger = copy.deepcopy(random.choice(DANGEROUS))
            inside = tree.get("model_args", tree)
            (inside if isinstance(inside, dict) and random.random() < 0.7 else tree).update(danger)
            return f"with {short(danger)}"
        return tweak(random, tree)

    def load(self, files: dict[str, bytes | None]) -> None:
        folder = fill(PLACE / "models", files)
        with WATCH.over(folder):
            model = lmc.load_model(folder)
        check_weights(model, folder)
        check_logits(model)
        if sorted(path.name for path in folder.iterdir()) != sorted(files):
            raise Left("loading changed the folder")


class Checkpoints(Group):
    """Files that ``save_checkpoint`` wrote."""

    name, share = "checkpoints", 0.15

    @cache  # noqa: B019 (one object a run)
    def seeds(self) -> dict[str, bytes]:
        place, vits = PLACE / "checkpoint", {k: v for k, v in VIT.items() if k != "num_classes"} | {"num_classes": 3}
        made = {"mlp": (small_mlp(), {"widths": [4, 5, 3]}), "gpt2": (gpt2(), GPT2), "vit": (vit(), vits)}
        for name, (model, config) in made.items():
            lmc.save_checkpoint(place / name, model, name, config, seed=0, recipe={"lr": 0.1})
        return read_folder(place)

    def make(self, random: Random) -> Case:
        kind = random.choice(list(self.seeds()))
        content, steps = self.seeds()[kind], []
        if random.random() < 0.5:  # as older files are: what lies behind the checksum is reached, too
            header, data = split(content)
            header["__metadata__"].pop("sha256", None)
            content = join(header, data)
        for _ in range(random.choice((1, 1, 1, 2))):
            how = "nothing"
            with contextlib.suppress(Exception):  # damaged before
                how, content = random.choice((self.story, self.story, change_tensors, scramble))(random, content)
            steps.append(how)
        return Case(f"{kind}: " + "; ".join(steps), partial(self.load, content))

    @staticmethod
    def story(random: Random, content: bytes) -> tuple[str, bytes]:
        """Change the metadata."""
        header, data = split(content)
        tree = {key: json.loads(text) for key, text in header["__metadata__"].items()}
        how = tweak(random, tree) if random.random() < 0.8 else f"with {short(tree.get('config'))}"
        if isinstance(tree.get("config"), dict) and random.random() < 0.3:
            danger = copy.deepcopy(random.choice(DANGEROUS))
            tree["config"] |= danger
            how = f"config with {short(danger)}"
        header["__metadata__"] = {key: json.dumps(value) for key, value in tree.items()}
        return f"metadata: {how}", join(header, data)

    def load(self, content: bytes) -> None:
        folder = fill(PLACE / "load", {"a.safetensors": content})
        with WATCH.over(folder):
            model = lmc.load_checkpoint(folder / "a.safetensors").model
        check_weights(model, folder)
        check_logits(model)


class Resumes(Group):
    """What an interrupted training left behind: going on gives the weights of a whole run, or an error."""

    name, share = "resumes", 0.02
    RECIPE: ClassVar[dict] = {"epochs": 3, "batch_size": 4, "lr": 0.05, "average": 0.5}

    @cache  # noqa: B019
    def seed(self) -> tuple[bytes, list[Tensor]]:
        data, path = world().batches["mlp"], PLACE / "resume-seed" / "a.unfinished"
        whole = lmc.train(small_mlp(), data, **self.RECIPE, augment=self.same)
        Resumes.left = 2 * len(data.inputs)  # interrupted in the third epoch
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(KeyboardInterrupt):
            lmc.train(small_mlp(), data, **self.RECIPE, augment=self.same, checkpoint=path)
        Resumes.left = -1
        return path.read_bytes(), [p.detach() for p in whole.parameters()]

    left = -1

    @staticmethod
    def same(x: Tensor) -> Tensor:
        if Resumes.left == 0:
            raise KeyboardInterrupt
        Resumes.left -= 1
        return x

    def make(self, random: Random) -> Case:
        how, content = random.choice((scramble, change_tensors, change_tensors, Checkpoints.story))(
            random, self.seed()[0]
        )
        return Case(how, partial(self.resume, content))

    def resume(self, content: bytes) -> None:
        path = fill(PLACE / "resume", {"a.unfinished": content}) / "a.unfinished"
        with leaves_nothing(path.parent):
            found = lmc.train(small_mlp(), world().batches["mlp"], **self.RECIPE, augment=self.same, checkpoint=path)
        if not all(torch.equal(p, q) for p, q in zip(found.parameters(), self.seed()[1], strict=True)):
            raise Wrong("a damaged checkpoint was taken up, and gives other weights than the whole run")


class Tokenizers(Group):
    """``tokenizer.json`` beside a model."""

    name, share = "tokenizers", 0.08

    def make(self, random: Random) -> Case:
        content = tokenizer().to_str().encode()
        if random.random() < 0.7:
            tree = json.loads(content)
            how = "; ".join(tweak(random, tree) for _ in range(random.choice((1, 1, 2))))
            content = json.dumps(tree).encode()
        else:
            how, content = random.choice((odd_json, scramble))(random, content)
        return Case(how, partial(self.load, content))

    def load(self, content: bytes) -> None:
        folder = fill(PLACE / "tokenizer", {"tokenizer.json": content})
        with WATCH.over(folder):
            found = load_tokenizer(folder)
        encode(found, ["to be or not to be"])
        found.get_vocab_size()


class Folders(Group):
    """Data: folders of text, tables and images that are damaged."""

    name, share = "data", 0.015

    @cache  # noqa: B019
    def seeds(self) -> dict[str, dict[str, bytes]]:
        texts = ["to be or not to be", "that is the question", "a rose by any other name"] * 4
        table = datasets.Dataset.from_dict({"text": texts})
        kinds = {
            "txt": "\n".join(texts).encode(), "csv": b"text\n" + "\n".join(texts).encode(),
            "jsonl": "\n".join(json.dumps({"text": text}) for text in texts).encode(),
            "json": json.dumps([{"text": text} for text in texts]).encode(),
        }  # fmt: skip
        place = clear(PLACE / "tables")
        table.to_parquet(place / "a")
        kinds["parquet"] = (place / "a").read_bytes()
        found = {kind: {f"{split}.{kind}": content for split in ("train", "test")} for kind, content in kinds.items()}
        images = {}
        for split_name, label, number in ((s, k, n) for s in ("train", "test") for k in "ab" for n in range(2)):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 4), 60 * number + 20, np.uint8)).save(file, "PNG")
            images[f"{split_name}/{label}/{number}.png"] = file.getvalue()
        return found | {"png": images}

    def make(self, random: Random) -> Case:
        kind = random.choice(list(self.seeds()))
        files: dict[str, bytes | None] = dict(self.seeds()[kind])
        steps = [self.damage(random, files, kind) for _ in range(random.choice((1, 1, 1, 2)))]
        settings = {"batch_size": 4, "context": random.choice((1, 4, 4, 4, 200))}
        what = f"{kind}: {'; '.join(steps)}; context={settings['context']}"
        return Case(what, partial(self.load, files, settings))

    def damage(self, random: Random, files: dict[str, bytes | None], kind: str) -> str:
        name = random.choice(list(files))
        content = files[name] or b""
        match random.randrange(7):
            case 0 | 1:
                how, files[name] = scramble(random, content)
            case 2:
                del files[name]
                files["readme"], how = b"x", "deleted"
            case 3:
                extra = {
                    "train.py": b"open('/dev/shm/lmc-fuzz-bait', 'w')", "data.py": b"import os; os.system('id')",
                    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: /etc/hostname\n---\n",
                    "README.MD": b"x", "dataset_infos.json": b"[]", "dataset_info.json": b"{",
                    "metadata.csv": b"a,b\n1\n",
                    f"validation.{kind}": b"", "train.txt": b"\xff\xfe", "test/x/0.png": b"junk", "state.json": b"{}",
                }  # fmt: skip
                name = random.choice(list(extra))
                files[name], how = extra[name], "is new"
            case 4:
                name = f"{random.choice(('train', 'test', 'valid', 'dev', 'x'))}.{random.choice(('txt', 'csv', 'png'))}"
                files[name], how = content, "is new"
            case 5 if kind == "png":
                file, mode = io.BytesIO(), random.choice(("RGB", "RGBA", "1", "I;16", "LA", "CMYK", "F", "P"))
                how = f"is of mode {mode}"
                format = "TIFF" if mode in ("CMYK", "F") else "PNG"
                Image.new(mode, (random.choice((1, 4, 9)), 4)).save(file, format)
                files[name] = file.getvalue()
            case _:
                rows = [{"text": None}, {"text": 7}, {"text": ["a"]}, {"text": {"a": 1}}, {"text": ""},
                {"words": "a"}, [],
                        {"text": "\x00" * 9}, {"text": "\ud800"}, {"text": "a", "label": 1}, {}]  # fmt: skip
                # not null alone: pyarrow 26 dies of it
                row = random.choice(rows)
                files[name] = (content + b"\n" if random.random() < 0.5 else b"") + json.dumps(row).encode()
                how = f"has {row!r}"
        return f"{name} {how}"

    def load(self, files: dict[str, bytes | None], settings: dict) -> None:
        folder = fill(PLACE / "data", files)
        datasets.config.HF_DATASETS_CACHE = clear(PLACE / "hub" / "cache")
        with WATCH.over(folder):
            found = lmc.load_data(str(folder), tokenizer=tokenizer(), **settings)
        if not found.train.inputs.isfinite().all() or found.train.targets.min() < 0:
            raise Wrong("the data hold NaN, infinity or a negative target")


@dataclass(frozen=True)
class World:
    """Small valid arguments, by architecture where it matters."""

    models: dict[str, list[torch.nn.Module]]
    networks: dict[str, list[lmc.Network]]
    batches: dict[str, Batches]
    inputs: dict[str, Tensor]
    data: dict[str, Data]
    alignments: dict[str, list[lmc.Alignment]]
    curve: lmc.Curve
    plane: lmc.Plane
    simplex: lmc.Simplex


@cache
def world() -> World:
    make = {"mlp": small_mlp, "gpt2": gpt2, "vit": vit}
    models = {name: [build(seed) for seed in range(3)] for name, build in make.items()}
    networks = {name: [lmc.canonicalize(model) for model in three] for name, three in models.items()}
    torch.manual_seed(0)
    tokens = torch.randint(16, (8, 5))
    inputs = {"mlp": torch.randn(8, 4), "gpt2": tokens[:, :-1], "vit": torch.randn(8, 1, 8, 8)}
    classes = {name: torch.arange(8) % 3 for name in ("mlp", "vit")} | {"gpt2": tokens[:, 1:]}
    batches = {name: Batches(inputs[name], classes[name], 4) for name in make}
    known = {name: tokenizer() if name == "gpt2" else None for name in make}
    data = {name: Data(name, batches[name], batches[name], None, (), known[name]) for name in make}
    alignments = {name: [three[0].spec.sample(seed) for seed in range(2)] for name, three in networks.items()}
    a, b, c = networks["mlp"]
    return World(
        models, networks, batches, inputs, data, alignments, lmc.interpolate(a, b, batches["mlp"], points=5),
        lmc.interpolate_plane([a, b, c], batches["mlp"], points=4),
        lmc.interpolate_simplex([a, b, c], batches["mlp"], points=4),
    )  # fmt: skip


@cache
def curves() -> pd.DataFrame:
    """A few rows of a table that ships."""
    return lmc.load_table("barriers").query("set == 'mlp' and split == 'train'")


class Functions(Group):
    """Public functions and methods, with arguments of which some are hostile."""

    name, share = "functions", 0.38
    ENDLESS = ("steps", "rounds", "length", "epochs", "sweeps")  # a huge number is a wish, not a mistake
    FUNCTIONS = ("augment", "merge", "prompt", "lambdas", "wrong")
    GIVEN = ("steps", "points", "epochs", "prompt", "batch_size")  # or the defaults would take long
    RESULTS = (
        "Curve",
        "Plane",
        "Simplex",
        "Barriers",
        "Text",
        "Symmetry",
        "Alignment",
        "Estimate",
    )  # nobody makes these by hand

    @cache  # noqa: B019
    def calls(self) -> dict[str, Callable]:
        """What is called: name to function; methods take their object as ``self``."""
        found = {name: getattr(lmc, name) for name in lmc.__all__ if name not in self.RESULTS}
        methods = {
            lmc.Network: ("__call__", "activations", "to", "to_model"), lmc.Spec: ("sample", "widen", "restrict"),
            lmc.Alignment: ("__call__", "__matmul__", "inverse"), lmc.Curve: ("plot",), lmc.Prompt: ("__call__",),
            Batches: ("take", "cut"),
        }  # fmt: skip
        for cls, names in methods.items():
            found |= {f"{cls.__name__}.{name}": getattr(cls, name) for name in names}
        return found | {"Batches": Batches, "Permutation.sample": lmc.Permutation.sample, "barrier": lmc.barrier}

    def make(self, random: Random) -> Case:
        name = random.choice(list(self.calls()))
        function = self.calls()[name]
        kind, bad = random.choice(("mlp", "mlp", "gpt2", "vit")), random.choice((0, 1, 1, 1, 2))
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_KEYWORD,)]
        wrong = set(random.sample([p.name for p in parameters], min(bad, len(parameters)))) - {"self"}
        given: dict[str, Any] = {}
        positional: list[Any] = []
        for parameter in parameters:
            if parameter.name in wrong:
                value = self.hostile(random, kind, parameter.name)
            elif parameter.default is parameter.empty or parameter.name in self.GIVEN or random.random() < 0.1:
                value = self.valid(random, kind, name, parameter.name, parameter.default)
            else:
                continue
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                positional.append(value)
            else:
                given[parameter.name] = value
        told = ", ".join([*map(short, positional), *(f"{k}={short(v)}" for k, v in given.items() if k in wrong)])
        return Case(
            f"{name}({told}) for {kind}", partial(self.call, function, positional, given), self.declared(function)
        )

    @staticmethod
    def declared(function: Callable) -> tuple[type[BaseException], ...]:
        """The types of error that a docstring names, and those that anything may raise."""
        named = set(re.findall(r"^\s*(KeyError|AssertionError)$", function.__doc__ or "", re.MULTILINE))
        extra = [kind for kind in (KeyError, AssertionError) if kind.__name__ in named]
        return (ValueError, TypeError, OSError, *extra)

    def valid(self, random: Random, kind: str, call: str, name: str, default: Any) -> Any:
        w = world()
        pick = random.choice
        networks = list(w.networks[kind])
        own = {
            "Network.architecture": networks[0].architecture, "Network.params": dict(networks[1].params),
            "Spec.types": networks[0].spec.types, "Spec.sites": networks[0].spec.sites, "Prompt.length": 3,
            "load_data.name": pick(("digits", "nothing")), "load_endpoint.name": "mlp", "load_table.name": "cost",
            "table.data": {"a": {"b": 0.5}, "c": {"b": lmc.Estimate(0.5, 0.1)}}, "table.caption": "One.",
            "table.best": "min", "table.bars": "b", "summarize.table": curves(),
            "estimate.values": {"0-1": 0.5, "0-2": 1}, "estimate.samples": {"0-1": 0.5, "0-2": 1},
            "load_model.path": PLACE / "seeds" / pick(("gpt2", "vit")),
            "load_checkpoint.path": PLACE / "checkpoint" / "mlp",
            "save_model.path": Path("out"), "save_model.like": PLACE / "seeds" / pick(("gpt2", "vit")),
            "save_checkpoint.path": Path("out", "a.safetensors"), "Batches.targets": w.batches[kind].targets,
            "Network.to.args": torch.float64, "Permutation.sample.n": 4, "Batches.take.n": 2, "Batches.cut.n": 2,
            "Permutation.indices": torch.tensor([1, 0]), "SemiPermutation.owners": torch.tensor([0, 0, 1]),
            "SemiPermutation.shares": torch.tensor([0.5, 0.5, 1]), "SoftPermutation.mixed": torch.eye(2),
            "explore.curves": {"vanilla": w.curve}, "explore_simplex.simplices": {"vanilla": w.simplex},
        }  # fmt: skip
        objects = {"Network": networks[0], "Spec": networks[0].spec, "Alignment": w.alignments[kind][0],
                   "Curve": w.curve, "Batches": w.batches[kind],
                   "Prompt": lmc.Prompt("to be", tokenizer(), length=3)}  # fmt: skip
        general = {
            "a": networks[0], "b": networks[1], "network": networks[0], "networks": networks[: pick((2, 3, 3))],
            "model": w.models[kind][0], "batches": w.batches[kind], "data": w.data[kind], "inputs": w.inputs[kind],
            "alignment": w.alignments[kind][0], "init": None, "other": w.alignments[kind][1], "lam": pick((0, 0.3, 1)),
            "points": pick((2, 3, 4)), "steps": pick((1, 2)), "epochs": 1, "seed": pick((0, 3)), "curve": w.curve,
            "allow": pick(("permutation", "orthogonal", "invertible")), "text": "to be", "tokenizer": tokenizer(),
            "plane": w.plane, "paths": {"vanilla": w.curve, "aligned": w.curve},
            "site": next(iter(networks[0].spec.sites)),
            "sizes": {}, "architecture": kind, "config": {"widths": [4, 5, 3]}, "prompt": None, "batch_size": 4,
            "matrix": torch.eye(2, dtype=torch.float64), "generator": torch.Generator().manual_seed(0), "title": "x",
            "scales": torch.ones(2), "indices": torch.tensor([1, 0]),
        }  # fmt: skip
        if name == "self":
            return objects[call.split(".")[0]]
        return own.get(f"{call}.{name}", general.get(name, default))

    def hostile(self, random: Random, kind: str, name: str) -> Any:
        """Anything: of other architectures, shapes and types, or no such thing at all."""
        w, other = world(), random.choice(("mlp", "gpt2", "vit"))
        pick = random.choice
        things = (
            object(), w.networks[other][2], w.networks[other], w.models[other][1], w.batches[other], w.inputs[other],
            w.alignments[other][1], w.data[other], [], iter(()), [(torch.empty(0, 4), torch.empty(0).long())],
            [(w.inputs[other], w.batches[other].targets)], [(torch.full((2, 4), torch.nan), torch.zeros(2).long())],
            [(w.inputs[kind][:2].double(), torch.tensor([-100, 99]))], [(w.inputs[kind], None)], [w.inputs[kind]],
            "abc",
            [w.networks[kind][0]], [w.networks[kind][0], w.networks[other][1]], [w.networks[kind][0]] * 3, len,
            lambda *_: None,
            torch.tensor(torch.nan), torch.empty(0), torch.ones(2, 3), torch.tensor([0, 0]), torch.eye(2).bool(),
            torch.full((2, 2), torch.inf), torch.zeros(2, 2), w.inputs[kind][:0], w.inputs[kind].float() * torch.nan,
            torch.randn(3), torch.nn.Linear(2, 2), torch.nn.Sequential(), Path("missing"), b"x", 1j, {"vanilla": None},
            {"vanilla": w.curve, "b": w.plane}, {"x": [w.curve]}, lmc.canonicalize(small_mlp(0, (4, 7, 3))), range(3),
            {"ff.0": 9}, {"r": 2**40}, {name: torch.ones(1) for name in "ab"}, torch.float16, torch.int64, "cuda",
            "meta",
        )  # fmt: skip
        value = pick(things) if random.random() < 0.5 else hostile(random)
        if name in self.ENDLESS and isinstance(value, (int, float)) and 1e5 < value < float("inf"):
            value = -value
        if name in self.FUNCTIONS and isinstance(value, (torch.nn.Module, lmc.Network)):
            return "abc"  # a function's own errors are its author's
        return value

    def call(self, function: Callable, positional: list, given: dict) -> None:
        here = clear(PLACE / "functions")
        os.chdir(here)
        given = given | {name: iter(()) for name, value in given.items() if type(value) is type(iter(()))}
        before = self.state()
        try:
            with leaves_nothing(here):
                function(*positional, **given)
        finally:
            if (after := self.state()) != before:
                torch.set_grad_enabled(True)
                torch.set_default_dtype(torch.float32)
                changed = [name for name in before if before[name] != after[name]]
                raise Wrong(f"it left another {', '.join(changed)} behind")

    @staticmethod
    def state() -> dict[str, Any]:
        """What a call must leave as it is."""
        tensors = [p for nets in world().networks.values() for net in nets for p in net.params.values()]
        weights = [p for models in world().models.values() for model in models for p in model.parameters()]
        return {
            "state of the random numbers": hash(torch.get_rng_state().numpy().tobytes()),
            "state of NumPy's random numbers": hash(np.random.get_state()[1].tobytes()),
            "default dtype": torch.get_default_dtype(), "grad mode": torch.is_grad_enabled(),
            "network": sum(p._version for p in tensors), "model": sum(p._version for p in weights),
        }  # fmt: skip


class Commands(Group):
    """Command lines, with data and networks so small that a run takes a moment."""

    name, share = "commands", 0.03

    def __init__(self) -> None:
        self.real = command_line.load_data

    def few(self, *args: Any, **options: Any) -> Data:
        """What was asked for, of which eight samples are left."""
        found = self.real(*args, **options)
        return Data(found.name, found.train.take(8), found.test.take(8), found.validation and found.validation.take(8),
                    found.classes, found.tokenizer, found.scale)  # fmt: skip

    @cache  # noqa: B019
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Folders to align: two that fit, and others."""
        place = PLACE / "pairs"
        image = {"img_size": 28, "patch_size": 14}
        for seed, name in enumerate("ab"):
            gpt2(seed, vocab_size=1024, n_positions=32).save_pretrained(place / f"gpt2-{name}")
            save_vit(
                timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT | image), place / f"vit-{name}", **image
            )
        save_vit(vit(), place / "vit-small")
        gpt2().save_pretrained(place / "gpt2-small")
        gpt2(activation_function="relu", vocab_size=1024).save_pretrained(place / "gpt2-relu")
        for name, content in {"empty": {}, "junk": {"config.json": b"[]", "model.safetensors": b"x"}}.items():
            fill(place / name, content)
        return {path.name: str(path) for path in place.iterdir()}

    def make(self, random: Random) -> Case:
        argv = (self.train if random.random() < 0.5 else self.align)(random)
        for _ in range(random.choice((0, 0, 0, 1))):
            at = random.randrange(len(argv) + 1)
            argv[at:at] = [
                random.choice(("--help", "-x", "--", "--seed", "", "\x00", "train", "--lam=nan", "--out", "é"))
            ]
        return Case(repr(argv), partial(self.call, argv), (SystemExit,))

    def train(self, random: Random) -> list[str]:
        kind = random.choice(("mlp", "mlp", "vit", "gpt2"))
        small = {"mlp": {"hidden": [4]}, "vit": {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 14},
                 "gpt2": {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_inner": 8, "n_positions": 16}}[kind]  # fmt: skip
        recipe: dict[str, Any] = {"epochs": 1}
        options = {
            "--epochs": ("1", "0", "-1", "nan", "inf", "0.1", "x"), "--batch-size": ("4", "0", "-3", "2.5", "1" * 30,
            "x"),
            "--lr": ("0.01", "0", "-1", "nan", "inf", "1e300"), "--weight-decay": ("0", "-1", "nan", "inf"),
            "--seed": ("0", "-1", "9" * 30, "x", "2.5"), "--hidden": ("3", "0", "-1", "x"),
            "--preset": ("mlp", "vit", "gpt2", "paper-cifar10", "x"), "--out": ("o", "", "/proc/x", "file/x", "\x00",
            "x" * 300),
            "--data": ("digits", "fashion-mnist", "shakespeare", "x", "/", "", "o/p", ".", "file", "\x00", "a:b"),
            "--measure": ("digits", "x", "", "shakespeare"), "--half": None,
        }  # fmt: skip
        argv = ["train", kind]
        for name in random.sample(list(options), random.choice((0, 1, 1, 2))):
            argv += [name, random.choice(options[name])] if options[name] else [name]
        if random.random() < 0.4:
            how = random.choice((tweak, self.add))
            how(random, random.choice((small, recipe)))
        if isinstance(recipe.get("epochs"), (int, float)) and 10 < recipe["epochs"] < float("inf"):
            recipe["epochs"] = -1
        texts = [json.dumps(value) for value in (small, recipe)]
        if random.random() < 0.05:
            texts[random.randrange(2)] = random.choice(("[]", "", "{", "7", '"x"', "null"))
        return [*argv, "--config", texts[0], "--recipe", texts[1]]

    @staticmethod
    def add(random: Random, settings: dict) -> None:
        names = ("patience", "clip", "warmup", "betas", "average", "lr", "batch_size", "hidden", "embed_dim",
        "n_head", "x",
                 "weight_decay", "epochs", "seed", "drop_rate", "attn_pdrop", "activation_function",
                 "norm_layer")  # fmt: skip
        settings[random.choice(names)] = hostile(random)

    def align(self, random: Random) -> list[str]:
        kind, names = random.choice(("gpt2", "vit")), list(self.pairs())
        ends = [self.pairs()[f"{kind}-{x}" if random.random() < 0.8 else random.choice(names)] for x in "ab"]
        options = {
            "--out": ("m", "m", "m", "m", "", ".", "file", "file/x", "/proc/x", "\x00", "x" * 300, "o/p/q",
            "m.partial"),
            "--lam": ("0.5", "0", "1", "-1", "2", "nan", "inf", "x"), "--allow": ("permutation", "invertible", "x", ""),
            "--points": ("3", "2", "1", "0", "-1", "2.5", "x", "9" * 30),
            "--data": ("fashion-mnist", "shakespeare", "digits", "x", "/", "", ".", "file", "\x00"),
        }  # fmt: skip
        argv = ["align", *ends]
        for name in {"--out", "--points"} | set(random.sample(list(options), random.choice((0, 1, 1, 2)))):
            usual = name == "--points" and random.random() < 0.8
            argv += [name, "2" if usual else random.choice(options[name])]
        return argv

    def call(self, argv: list[str]) -> None:
        here = fill(
            PLACE / "commands", {"file": b"a file of the user's", "m.partial/precious": b"a folder of the user's"}
        )
        os.chdir(here)
        datasets.config.HF_DATASETS_CACHE = clear(PLACE / "hub" / "cache")
        command_line.load_data = self.few
        try:
            with leaves_nothing(here, kept=".unfinished"):
                try:
                    command_line.main(argv)
                except SystemExit as error:
                    if error.code not in (0, None):
                        raise ValueError(error.code) from error
        except ValueError as error:
            if isinstance(error.__cause__, SystemExit):
                raise error.__cause__ from None
            raise
        finally:
            command_line.load_data = self.real
            if (here / "file").read_bytes() != b"a file of the user's" or not (
                here / "m.partial" / "precious"
            ).exists():
                raise Wrong("a file of the user's is gone")


class Tags(HTMLParser):
    """The skeleton of a page: its tags with the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple] = []
        self.images: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))
        self.images += [
            value for name, value in attrs if name == "src" and value and value.startswith("data:image/svg")
        ]


class Figures(Group):
    """Names and titles that look like code: what a page consists of does not depend on them."""

    name, share = "figures", 0.002
    NAMES = (*TEXTS, "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "-->", "<!--<script>",
    "$\\frac$",
             "]]>", "&lt;", "\u2028", "${x}", "`", "\\u003c", "</style>", "</svg>", "$x^2$", "a" * 400,
             "\x0b")  # fmt: skip

    def make(self, random: Random) -> Case:
        kind = random.choice(list(self.kinds()))
        names = [random.choice(self.NAMES) + str(i) for i in range(6)]
        return Case(f"{kind} with {short(names)}", partial(self.draw, kind, names))

    @cache  # noqa: B019
    def kinds(self) -> dict[str, Callable[[list[str]], Any]]:
        w = world()
        network, inputs = w.networks["mlp"][0], w.inputs["mlp"]
        return {
            "curves": lambda n: lmc.explore({n[0]: {n[1]: w.curve}, n[2]: {n[1]: w.curve}}, title=n[3], caption=n[4]),
            "plane": lambda n: lmc.explore_plane(w.plane, {n[0]: w.curve, n[1]: w.curve}, names=n[2:5], title=n[5]),
            "simplex": lambda n: lmc.explore_simplex({n[0]: w.simplex, n[1]: w.simplex}, title=n[2], caption=n[3]),
            "spec": lambda n: lmc.explore_spec(network, title=n[0], caption=n[1]),
            "symmetry": lambda n: lmc.explore_symmetry(network, "ff.0", inputs, classes=n[:3], title=n[3], steps=2),
        }

    @cache  # noqa: B019
    def plain(self, kind: str) -> list[tuple]:
        return self.page(self.kinds()[kind]([f"name {i}" for i in range(6)])).found

    @staticmethod
    def page(figure: Any) -> Tags:
        return Tags(figure.to_html(clear(PLACE / "figures") / "page.html").read_text(encoding="utf-8"))

    def draw(self, kind: str, names: list[str]) -> None:
        page = self.page(self.kinds()[kind](names))
        if page.found != self.plain(kind):
            raise Wrong("a name became part of the page")
        for image in page.images:
            ElementTree.fromstring(base64.b64decode(image.split(",", 1)[1]))  # a ParseError is a finding


GROUPS: tuple[type[Group], ...] = (Models, Checkpoints, Resumes, Tokenizers, Folders, Functions, Commands, Figures)

# ---------------------------------------------------------------------------------------------- all inputs of a group


def number(group: Group, seed: int, index: int) -> Case:
    """The input of this number."""
    return group.make(Random(f"{group.name} {seed} {index}"))


def run(group: Group, seed: int, count: int) -> tuple[collections.Counter, list[dict]]:
    """Judge inputs, and return how they ended and the findings."""
    counts, findings, begun = collections.Counter(), [], time.monotonic()
    for index, (what, outcome) in enumerate(outcomes(group, seed, count)):
        counts["inputs"] += 1
        counts[f"refused {outcome.error}" if outcome.kind == "refused" else outcome.kind] += 1
        counts["unclear"] += outcome.unclear == "long"
        counts["by accident"] += outcome.unclear == "accident"
        if outcome.bad or outcome.unclear:
            findings.append({
                "kind": outcome.kind if outcome.bad else outcome.unclear, "error": outcome.error,
                "message": outcome.message[:2000], "where": outcome.where, "input": what,
                "again": f"python tests/fuzz.py --only {group.name} --seed {seed} --at {index}",
            })  # fmt: skip
    counts["seconds"] = round(time.monotonic() - begun)
    return counts, findings


def outcomes(group: Group, seed: int, count: int) -> Iterator[tuple[str, Outcome]]:
    """What each input was, and how it ended, in a process of its own: one that dies of an input has a successor."""
    done, answers = 0, PLACE / "answers"
    while done < count:
        if not (child := os.fork()):
            with contextlib.suppress(BaseException), answers.open("w", buffering=1) as file:
                for index in range(done, count):
                    case = number(group, seed, index)
                    print(json.dumps([case.what, vars(judge(case))]), file=file)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        told = [json.loads(text) for text in answers.read_text().splitlines()]
        yield from ((what, Outcome(**ended)) for what, ended in told)
        done += len(told)
        if done < count:
            died = Outcome("crash", "Crash", f"the process died of it ({os.waitstatus_to_exitcode(status)})")
            yield number(group, seed, done).what, died
            done += 1


def distinct(findings: list[dict]) -> dict[tuple, list[dict]]:
    """Findings that look alike put together."""
    found = collections.defaultdict(list)
    for finding in findings:
        message = re.sub(r"[\d.'\"/-]+", "#", finding["message"])[:60]
        found[finding["kind"], finding["error"], finding["where"] or message].append(finding)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def line(name: str, counts: collections.Counter) -> str:
    refused = ", ".join(f"{kind.split()[1]} {n}" for kind, n in sorted(counts.items()) if kind.startswith("refused "))
    total = sum(n for kind, n in counts.items() if kind.startswith("refused "))
    return (
        f"{name:<11} {counts['inputs']:>6} inputs: {counts['accepted']} accepted, {total} refused ({refused}), "
        f"{counts['undeclared']} undeclared, {counts['hang']} hangs, {counts['crash']} crashes, "
        f"{counts['left']} files left, {counts['wrong']} wrong, {counts['outside']} outside; "
        f"{counts['unclear']} long and {counts['by accident']} accidental messages; "
        f"{counts['seconds']} s"
    )


def write(name: str, findings: list[dict]) -> None:
    FINDINGS.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(same[0] | {"times": len(same)}, ensure_ascii=True) for same in distinct(findings).values()]
    (FINDINGS / f"{name}.jsonl").write_text("\n".join(rows) + "\n" * bool(rows), encoding="utf-8")


# ---------------------------------------------------------------------------------------------- coverage-guided


def atheris_runs(count: int, seed: int) -> int:
    """Let atheris look for inputs that reach new code of the loaders; it ends its process, so it has its own."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris     not run: there is no atheris here (pip install atheris; Linux, Python 3.11 to 3.13)")
        return 0
    command = [sys.executable, __file__, "--inside-atheris", "--count", str(count), "--seed", str(seed)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, cwd=ROOT).returncode


def inside_atheris(count: int, seed: int) -> None:
    """Bytes become a config (first half of the runs' choices) or a safetensors header of a small saved model."""
    import atheris

    counts, findings, begun, group = collections.Counter(), [], time.monotonic(), Models()
    names = [name for name in folders() if "sharded" not in name]

    def one(given: bytes) -> None:
        random = atheris.FuzzedDataProvider(given)
        files: dict[str, bytes | None] = dict(folders()[names[random.ConsumeIntInRange(0, len(names) - 1)]])
        target = random.PickValueInList(["config.json", "model.safetensors"])
        rest = random.ConsumeBytes(len(given))
        if target == "config.json":
            files[target] = rest
        else:
            _, data = split(files[target])
            files[target] = struct.pack("<Q", len(rest)) + rest + data
        outcome = judge(Case(f"{target} = {rest!r}", partial(group.load, files)))
        counts["inputs"] += 1
        counts[f"refused {outcome.error}" if outcome.kind == "refused" else outcome.kind] += 1
        counts["unclear"] += outcome.unclear == "long"
        if outcome.bad:
            told = {"kind": outcome.kind, "error": outcome.error, "message": outcome.message[:2000]}
            findings.append(told | {"where": outcome.where, "input": f"{target} = {rest!r}", "again": "the input"})
        if counts["inputs"] == count:
            counts["seconds"] = round(time.monotonic() - begun)
            print(line("atheris", counts), flush=True)
            write("atheris", findings)
            clean()
            os._exit(bool(findings))

    corpus = PLACE / "corpus"
    corpus.mkdir()
    for i, name in enumerate(names):  # atheris takes numbers from the end of the bytes
        config, header = (
            folders()[name]["config.json"],
            json.dumps(split(folders()[name]["model.safetensors"])[0]).encode(),
        )
        (corpus / f"{name}-config").write_bytes(config + bytes([0, i]))
        (corpus / f"{name}-header").write_bytes(header + bytes([1, i]))
    for function in (lmc.load_model, *vars(sys.modules["lmc_utils.zoo.folders"]).values()):
        if inspect.isfunction(function) and function.__module__ == "lmc_utils.zoo.folders":
            atheris.instrument_func(function)
    arguments = [sys.argv[0], f"-runs={count + 10}", f"-seed={seed + 1}", "-max_len=4096", str(corpus)]
    atheris.Setup(arguments, one, internal_libfuzzer=True)
    atheris.Fuzz()


# ---------------------------------------------------------------------------------------------- the command


def calm() -> None:
    """Quiet libraries, one thread, and no more than four gigabytes beside what is in use."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    matplotlib.use("agg")
    with contextlib.suppress(OSError, ValueError):  # where there is no /proc, there is no limit
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [group.name for group in GROUPS]
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=[*known, "loaders", "atheris"], help="one group; loaders: all that read files"
    )
    parser.add_argument("--at", type=int, help="one input of a group, with its traceback")
    parser.add_argument("--inside-atheris", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    calm()
    if args.inside_atheris:
        inside_atheris(args.count, args.seed)
    chosen = [g() for g in GROUPS if args.only in (None, g.name) or (args.only == "loaders" and g in GROUPS[:5])]
    if args.at is not None:
        case = number(chosen[0], args.seed, args.at)
        print(ascii(case.what), judge(case), sep="\n")
        case.run()
        return 0
    total, failed = collections.Counter(), 0
    whole = sum(group.share for group in chosen) or 1
    for group in chosen:
        counts, findings = run(group, args.seed, max(1, round(args.count * group.share / whole)))
        print(line(group.name, counts), flush=True)
        write(group.name, findings)
        for (kind, error, _), same in distinct(findings).items():
            if kind not in ("long", "accident"):
                print(f"    {len(same)} x {kind} {error} at {same[0]['where']}: {same[0]['message'][:120]!a}")
                print(f"        {same[0]['input'][:160]!a}\n        {same[0]['again']}")
                failed += len(same)
        total += counts
    if args.only is None:
        print(line("all", total))
    if args.only in (None, "atheris"):
        failed += atheris_runs(max(50, args.count // 20), args.seed)
    if failed:
        print(f"findings are in {FINDINGS.relative_to(ROOT)}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
