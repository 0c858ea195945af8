"""Data: three sets that ship with the package, and any image or text set of the Hugging Face hub or of a folder."""

from __future__ import annotations

import hashlib
import io
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import NoneType

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from .arguments import brief, count, instance, wording

Batch = tuple[Tensor, Tensor]  # inputs and targets
ASSETS = Path(__file__).resolve().parent / "assets"
SHIPPED = {
    "fashion-mnist": ("train", "test"),
    "digits": ("train", "test"),
    "shakespeare": ("train", "validation", "test"),
}
TEXT = (datasets.Value("string"), datasets.Value("large_string"))
TOKENIZER = "shakespeare-tokenizer.json"
# What shows that a folder holds a data set: a description, or a name that says which split is in it.
DESCRIBED = ("README.md", ".huggingface.yaml")
NAMES = {"data", "train", "training", "test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"}
MANY = 300_000
FORMATS = {module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__)}  # "json", "csv", ...
LINES = {".json", ".jsonl", ".ndjson"}
NULL = re.compile(rb"(\xef\xbb\xbf)?\s*null\b")
REPAIR = "Reinstall the package, or make it again: python -m lmc_utils.assets.make_data (assets/README.md says how)"


@dataclass(frozen=True, eq=False, repr=False)
class Batches:
    """Minibatches held in memory; iterate over them as often as you like.

    Parameters
    ----------
    inputs
        (N, ...): one sample a row.
    targets
        (N, ...) int64: the class of each sample, or for text the token that follows each token.
    batch_size
        Samples in a minibatch; the last one may be smaller.
    classes
        The names of the classes, if there are any.

    Raises
    ------
    TypeError
        If inputs or targets are no tensors, the batch size no whole number, or a name of a class no text.
    ValueError
        If there is no sample, the lengths differ, the batch size is not positive, or targets are not int64.
    """

    inputs: Tensor
    targets: Tensor
    batch_size: int
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in {"inputs": self.inputs, "targets": self.targets}.items():
            instance(name, values, Tensor)
            if not values.ndim:
                raise ValueError(f"{name} must have one row for each sample, but are {brief(values)}")
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.targets)} targets: there must be one of each")
        if len(self.inputs) == 0:
            raise ValueError("these batches are empty: at least one sample is needed")
        count("batch_size", self.batch_size, most=2**31 - 1)
        if self.targets.dtype != torch.int64:
            raise ValueError(f"targets must be class numbers of dtype int64, not {brief(self.targets)}")
        instance("classes", self.classes, (tuple, list))
        for i, name in enumerate(self.classes):
            instance(f"classes[{i}]", name, str)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True)

    def __len__(self) -> int:
        """The number of minibatches."""
        return -(-len(self.inputs) // self.batch_size)

    def take(self, n: int) -> Batches:
        """The first ``n`` samples (all of them, if there are fewer); ``n`` below 1 raises ValueError."""
        count("n", n)
        return replace(self, inputs=self.inputs[:n], targets=self.targets[:n])

    def cut(self, n: int) -> tuple[Batches, Batches]:
        """The first ``n`` samples, and the others; there must be some of both (ValueError)."""
        return self.take(n), replace(self, inputs=self.inputs[n:], targets=self.targets[n:])

    def __repr__(self) -> str:
        kind = f"{tuple(self.inputs.shape[1:])} {str(self.inputs.dtype).removeprefix('torch.')}"
        return f"Batches({len(self.inputs)} samples {kind}, {len(self)} x {self.batch_size})"


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in its splits.

    Parameters
    ----------
    name, train, test, validation
        What it is called, and its minibatches; not every set has data for validation.
    classes
        The names of the classes of images.
    tokenizer
        What made the tokens of text.
    scale
        Mean and standard deviation of each channel, shapes (C, 1, 1), by which images were standardised.
    """

    name: str
    train: Batches
    test: Batches
    validation: Batches | None = None
    classes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    scale: tuple[Tensor, Tensor] | None = None

    def rescaled(self, mean: Sequence[float], std: Sequence[float]) -> Data:
        """Standardise the same images by another mean and standard deviation of each channel.

        Parameters
        ----------
        mean, std
            One number for each channel, of pixels in [0, 1].

        Raises
        ------
        ValueError
            If these are not standardised images; if there is not one finite number for each channel; if a standard
            deviation is not positive.

        Examples
        --------
        >>> digits = load_data("digits").rescaled([0.5], [0.5])
        >>> digits.test.inputs.min().item(), digits.test.inputs.max().item()
        (-1.0, 1.0)
        """
        if self.scale is None:
            raise ValueError(f"{self.name!r} holds no standardised images: there is nothing to rescale")
        new = [torch.tensor([float(x) for x in values]).view(-1, 1, 1) for values in (mean, std)]
        channels = len(self.scale[0])
        if not (len(new[0]) == len(new[1]) == channels and (new[1] > 0).all() and torch.cat(new).isfinite().all()):
            raise ValueError(
                f"{channels} channels need as many finite means and positive standard deviations, not {mean} and {std}"
            )
        factor, shift = self.scale[1] / new[1], (self.scale[0] - new[0]) / new[1]
        splits = {
            split: batches and replace(batches, inputs=batches.inputs * factor + shift)
            for split, batches in (("train", self.train), ("test", self.test), ("validation", self.validation))
        }
        return replace(self, **splits, scale=tuple(new))

    def __repr__(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        lines = [f"  {split}: {batches!r}" for split, batches in splits.items() if batches is not None]
        what = f"{self.tokenizer.get_vocab_size()} tokens" if self.tokenizer else f"{len(self.classes)} classes"
        return "\n".join([f"Data({self.name!r}, {what})", *lines])


def load_data(name: str, *, batch_size: int = 500, context: int = 128, tokenizer: Tokenizer | None = None) -> Data:
    """Load a data set by name.

    Parameters
    ----------
    name
        ``"fashion-mnist"`` (12,000 + 2,000 images), ``"digits"`` (1,437 + 360 images) and ``"shakespeare"`` (37 plays)
        ship with the package and need no network; ``assets/README.md`` describes them. ``"sums"`` are made on the spot
        (see :func:`sums`), and leave ``context`` and ``tokenizer`` unread. Any other name is a folder
        or a set of the Hugging Face hub, such as ``"uoft-cs/cifar10"``, in the splits ``train``, ``test`` and, if it is
        there, ``validation``. Its columns are found by their type: an image and a class label (the first of several),
        or a text.
    batch_size
        Samples in a minibatch.
    context
        Tokens in a sample of text; images ignore it.
    tokenizer
        What turns text into tokens, by default the tokenizer of the shipped plays; images ignore it.

    Returns
    -------
    Data
        Images: inputs (N, C, H, W) float32, each channel standardised by its mean and standard deviation over the
        training split; targets (N,) int64. Text: the split's tokens one after the other, cut into windows: inputs
        (N, context) int64 and, of the same shape, targets: the tokens that follow.

    Raises
    ------
    TypeError
        If an argument is of another type.
    FileNotFoundError
        If a shipped file is missing.
    ValueError
        If a shipped file is damaged; if a name is neither shipped, nor a folder, nor a set that the hub gives (say,
        without a network); if a set has no such splits or columns, or a split is shorter than one window.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> lmc.load_data("sums").test
    Batches(2000 samples (8,) int64, 4 x 500)
    """
    wording("name", name, most=4096)
    count("batch_size", batch_size, most=2**31 - 1)
    count("context", context)
    instance(
        "tokenizer", tokenizer, (Tokenizer, NoneType), "a fast tokenizer of transformers has one, .backend_tokenizer"
    )
    if name == "sums":
        return sums(batch_size)
    if name in SHIPPED and tokenizer is None:
        splits, classes, tokenizer, scale = _shipped(name)
    else:
        splits, classes, tokenizer, scale = _prepare(name, _read(name) if name in SHIPPED else _hub(name), tokenizer)
    batches: dict[str, Batches] = {}
    for split, (inputs, targets) in splits.items():
        if tokenizer:
            if (windows := len(targets) // context) < 1:
                tokens = len(inputs) + 1
                raise ValueError(f"split {split!r} of {name!r} has {tokens} tokens: too few for context={context}")
            inputs, targets = (tokens[: windows * context].view(windows, context) for tokens in (inputs, targets))
        batches[split] = Batches(inputs, targets, batch_size, classes)
    return Data(name, batches["train"], batches["test"], batches.get("validation"), classes, tokenizer, scale)


def sums(batch_size: int = 500) -> Data:
    """All sums of two numbers below 100, written as ``47+38=580``: two digits each, the answer from its last digit.

    A network that reads the first eight characters of a sum answers ``=`` until the question is complete, then the
    three digits of the answer: so every target can be known, and a loss of zero is possible.

    Parameters
    ----------
    batch_size
        Samples in a minibatch.

    Returns
    -------
    Data
        8,000 sums to train on and the 2,000 others to test: a sum and its mirror image (47+38, 38+47) are in the same
        part. Inputs and targets (N, 8) int64: 0 to 9 are digits, 10 is ``+`` and 11 is ``=``.

    Raises
    ------
    TypeError, ValueError
        If ``batch_size`` is no positive whole number.

    Examples
    --------
    >>> data = sums()
    >>> data.tokenizer.decode(data.test.inputs[0].tolist()), data.test.targets[0].tolist()
    ('75+89=46', [11, 11, 11, 11, 11, 4, 6, 1])
    """
    a, b = torch.cartesian_prod(torch.arange(100), torch.arange(100)).T
    drawn = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
    order = drawn[100 * torch.minimum(a, b) + torch.maximum(a, b)].argsort(stable=True)
    a, b = a[order], b[order]
    total, plus, equals = a + b, torch.full_like(a, 10), torch.full_like(a, 11)
    written = torch.stack(
        [a // 10, a % 10, plus, b // 10, b % 10, equals, total % 10, total // 10 % 10, total // 100], 1
    )
    inputs, targets = written[:, :-1], written[:, 1:].clone()
    targets[:, :5] = 11  # the question is not complete yet
    characters = Tokenizer(models.WordLevel({character: i for i, character in enumerate("0123456789+=")}))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    train, test = Batches(inputs, targets, batch_size).cut(8000)
    return Data("sums", train, test, tokenizer=characters)


def load_table(name: str) -> pd.DataFrame:
    """A table of results that took too long to compute in a notebook; a script in ``benchmarks/`` makes it again.

    Parameters
    ----------
    name
        ``"barriers"``: whole curves between all end points that ship in three seeds, by method and split, with standard
        errors over samples; ``"adding"``; ``"axes"``; ``"simplices"``; ``"merging"``; ``"widths"``; ``"vit-study"``;
        ``"ablations"``; ``"cost"``.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        If it is damaged, or the name is a path.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> lmc.load_table("adding").method.unique().tolist()
    ['vanilla', 'weight', 'learned, permutations only', 'learned']
    """
    if wording("name", name) != Path(name).name:
        raise ValueError(f"name must be that of a table, such as 'barriers', and no path, but is {brief(name)}")
    return pd.read_csv(verify(ASSETS / "results" / f"{name}.csv"))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token numbers of each text.

    Raises
    ------
    ValueError
        If the tokenizer has no number for something in them.
    """
    try:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    except Exception as error:  # tokenizers raises no subclass
        raise ValueError(f"the tokenizer cannot encode the text: {error}") from error


def vocabulary(tokenizer: Tokenizer) -> int:
    """How many numbers of tokens a network must know: one more than the largest, which may be more than the tokens."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def verify(path: Path) -> Path:
    """Check a shipped file against ``assets/SHA256SUMS``, and give its path back.

    Raises
    ------
    FileNotFoundError
        If the file, or the list of checksums, is missing.
    ValueError
        If its SHA-256 is not the one on the list, or it is not on the list.
    """
    name = path.relative_to(ASSETS).as_posix()
    for needed in (path, ASSETS / "SHA256SUMS"):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed.relative_to(ASSETS).as_posix()} is missing from {ASSETS}. {REPAIR}")
    expected = checksums().get(name, "none on the list")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{name} in {ASSETS} is damaged: SHA-256 expected {expected}, found {found}. {REPAIR}")
    return path


def checksums() -> dict[str, str]:
    """What ``assets/SHA256SUMS`` says: the SHA-256 of each file, by its path inside the folder."""
    lines = (ASSETS / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


# Inputs and targets of each split (of text: one long row of tokens each), and the other fields of Data.
Prepared = tuple[dict[str, tuple[Tensor, Tensor]], tuple[str, ...], Tokenizer | None, tuple[Tensor, Tensor] | None]


@lru_cache
def _shipped(name: str) -> Prepared:
    return _prepare(name, _read(name))


def _read(name: str) -> Mapping[str, datasets.Dataset]:
    splits = {}
    for split in SHIPPED[name]:
        path = verify(ASSETS / f"{name}-{split}.parquet")
        try:  # not Dataset.from_parquet: it writes a second copy of the data to the user's cache
            splits[split] = datasets.Dataset(parquet.read_table(path))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path.name} in {ASSETS} is not a readable Parquet file: {error}. {REPAIR}") from error
    return splits


def _hub(name: str) -> Mapping[str, datasets.Dataset]:
    try:
        if Path(name).is_file():
            raise ValueError("it is a file: name the folder that holds the files of all splits")
        if Path(name).is_dir():
            _check_folder(Path(name))
        elif name in FORMATS:
            raise ValueError("it is the name of a format: name the folder that holds the files")
        # with the whole path, or a folder called json would be taken for the format
        splits = datasets.load_dataset(str(Path(name).resolve()) if Path(name).is_dir() else name)
    except Exception as error:  # a user's folder brings up whatever the parsers of its files raise
        if Path(name).exists():
            kind = "folder" if Path(name).is_dir() else "file"
            problem = f"the {kind} {name!r} is here but cannot be loaded"
        elif isinstance(error, ConnectionError):
            problem = f"{name!r} is neither shipped nor a folder here, and no network reaches the Hugging Face hub"
        else:
            problem = f"{name!r} is neither shipped nor a folder here, and the Hugging Face hub does not give it"
        raise ValueError(f"{problem} ({error}). Without a network there are {', '.join(SHIPPED)}, sums") from error
    if "test" not in splits and "valid" in splits:  # Tiny ImageNet's test labels were never published
        splits["test"] = splits["valid"]
    if missing := {"train", "test"} - set(splits):
        raise ValueError(f"{name!r} has no split {' or '.join(sorted(missing))}, only {', '.join(splits)}")
    return {split: splits[split] for split in ("train", "validation", "test") if split in splits}


def _check_folder(folder: Path) -> None:
    """Raise a ValueError for a folder that holds no data set, before a library walks through all that is below it."""
    if (folder / f"{folder.name}.py").exists():
        raise ValueError(f"{folder.name}.py would be a loading script, and no code of a data set is run here")
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() or not entry.name.endswith(".py")]
    if not any(name in DESCRIBED or set(re.split(r"[^a-z]+", name.lower())) & NAMES for name in names):
        raise ValueError("it has no files such as train.parquet and test.parquet, and no folders train and test")
    seen, waiting = 0, [(folder, ())]
    while waiting:
        where, above = waiting.pop()
        status = where.stat()
        if (here := (status.st_dev, status.st_ino)) in above:
            raise ValueError(f"the link {where} leads back to a folder that it lies in")
        for entry in os.scandir(where):
            seen += 1
            if seen > MANY:
                raise ValueError(f"it has more than {MANY:,} files and folders")
            if entry.is_dir():
                waiting.append((Path(entry), (*above, here)))
            elif not entry.is_file():
                raise ValueError(f"{entry.path} is no file that could be read")
            elif LINES & set(Path(entry).suffixes):
                _check_lines(Path(entry))


def _check_lines(path: Path) -> None:
    """Raise a ValueError for a line of JSON that is null: where its reader begins with one, the process would die."""
    with io.BufferedReader(pa.input_stream(path, compression="detect")) as file:
        for i, line in enumerate(file, 1):
            if i == 1 and line.startswith(b"["):  # one list, which is read in another way
                return
            if NULL.match(line):
                raise ValueError(f"line {i} of {path.name} is null: each must be an object, {{column: value}}")


def _prepare(name: str, splits: Mapping[str, datasets.Dataset], tokenizer: Tokenizer | None = None) -> Prepared:
    features = splits["train"].features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    texts = [column for column, feature in features.items() if feature in TEXT]
    texts = ["text"] if "text" in texts else texts
    if images and labels:
        return _images(name, splits, images[0], labels[0])
    if len(texts) == 1:
        return _texts(splits, texts[0], tokenizer or Tokenizer.from_file(str(verify(ASSETS / TOKENIZER))))
    raise ValueError(
        f"{name!r} needs an image and a class label, or one column of text (if there are several, called 'text'); "
        f"it has {', '.join(f'{column}: {feature}' for column, feature in features.items())}"
    )


def _images(name: str, splits: Mapping[str, datasets.Dataset], image: str, label: str) -> Prepared:
    tensors = {}
    for split, rows in splits.items():
        try:
            pixels = [_pixels(name, picture) for picture in rows[image]]
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what PIL says of one that is damaged
            raise ValueError(f"an image in split {split!r} of {name!r} cannot be read: {error}") from error
        if len(shapes := {array.shape for array in pixels}) > 1:
            raise ValueError(f"the images of {name!r} differ in shape, e.g. {sorted(shapes)[:3]}: make them all alike")
        targets = np.asarray(rows[label][:], dtype=float)  # a missing label becomes NaN
        if not (targets >= 0).all():
            raise ValueError(f"some samples in split {split!r} of {name!r} have no label")
        inputs = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        tensors[split] = inputs.float().div_(255), torch.from_numpy(targets).long()
    if len(shapes := {tuple(inputs.shape[1:]) for inputs, _ in tensors.values()}) > 1:
        raise ValueError(f"the splits of {name!r} hold images of different shapes: {sorted(shapes)}")
    std, mean = torch.std_mean(tensors["train"][0], dim=(0, 2, 3), keepdim=True)
    std = std.clamp_min(1e-6)  # a channel that never changes becomes zero
    for inputs, _ in tensors.values():
        inputs.sub_(mean).div_(std)
    return tensors, tuple(splits["train"].features[label].names), None, (mean[0], std[0])


def _pixels(name: str, picture: object) -> np.ndarray:
    """(H, W, C) uint8, with one channel if it is grey and three if not."""
    if picture.mode[0] in "IF":  # PIL would clip them at 255
        raise ValueError(f"the images of {name!r} have mode {picture.mode}; make them 8-bit grey or RGB")
    grey = picture.mode in ("1", "L")
    return np.asarray(picture.convert("L" if grey else "RGB")).reshape(picture.height, picture.width, -1)


def _texts(splits: Mapping[str, datasets.Dataset], text: str, tokenizer: Tokenizer) -> Prepared:
    tensors = {}
    for split, rows in splits.items():
        encodings = encode(tokenizer, [row for row in rows[text] if row])
        tokens = torch.from_numpy(np.concatenate([[], *encodings]).astype(np.int64))
        tensors[split] = tokens[:-1], tokens[1:]
    return tensors, (), tokenizer, None
