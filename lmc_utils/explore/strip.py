"""What is shown under the curves of a figure: images with the answers to them, or the texts that networks write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .figure import sprite

if TYPE_CHECKING:
    from ..landscape.curve import Curve
    from ..landscape.evaluate import Examples
    from ..landscape.prompt import Text

IMAGES = 8  # as many samples in the strip
SURPRISE = 9  # nats; the strongest wash behind a token of text


def pictures(examples: Mapping[str, Examples | None], split: str) -> tuple[dict[str, Any], Tensor] | None:
    """The strip of images of one split and which samples they are; None if the curves carry no images."""
    known = {name: e for name, e in examples.items() if e is not None and e.inputs.ndim == 4}
    known = {name: e for name, e in known.items() if e.inputs.shape[1] in (1, 3)}
    if not known:
        return None
    first, *rest = known
    inputs, targets = known[first].inputs, known[first].targets
    for name in rest:
        other = known[name]
        if other.inputs.shape != inputs.shape or not torch.equal(other.targets, targets):
            where = f" on {split!r}" if split else ""
            raise ValueError(f"{first!r} and {name!r} saw different examples{where}: evaluate both on the same batches")
    chosen, recognised = _pick([e.probabilities for e in known.values()], targets)
    why = "Images that both ends recognise and" if recognised else "Images"
    names = known[first].classes or tuple(map(str, range(known[first].probabilities.shape[-1])))
    picture = {
        "sprite": sprite(inputs[chosen]),
        "shape": list(inputs.shape[2:]),
        "truth": targets[chosen].tolist(),
        "classes": list(names),
        "why": f"{why} on which the answers change most.",
    }
    return picture, chosen


def _pick(probabilities: Iterable[Tensor], targets: Tensor) -> tuple[Tensor, bool]:
    """The samples that both ends recognise (if there are enough) and on which the answers change most, of many classes.

    Parameters
    ----------
    probabilities
        Of each method, shape (points, n, classes).
    targets
        Shape (n,), int64.

    Returns
    -------
    chosen : Tensor
        Indices, at most ``IMAGES``, by class.
    recognised : bool
        Whether both ends of every path answer all of them right.
    """
    change, right = torch.zeros(len(targets)), torch.ones(len(targets), dtype=torch.bool)
    for p in probabilities:
        change += p.diff(dim=0).abs().sum((0, 2))
        right &= (p[[0, -1]].argmax(-1) == targets).all(0)
    change = change.tolist()
    ranked = sorted(range(len(targets)), key=lambda i: (not right[i], -change[i], i))
    before: Counter[int] = Counter()  # how many samples of its class come before a sample: every class has its turn
    turn = {}
    for i in ranked:
        turn[i] = before[targets[i].item()]
        before[targets[i].item()] += 1
    best = sorted(ranked, key=lambda i: (not right[i], turn[i], -change[i], i))[:IMAGES]
    chosen = torch.tensor(sorted(best, key=lambda i: (targets[i].item(), i)))
    return chosen, bool(right[chosen].all())


def answers(examples: Examples | None, chosen: Tensor | None) -> dict[str, Any]:
    """What was answered to the chosen examples, by point: the class and its probability; nothing without examples."""
    if examples is None or chosen is None:
        return {}
    probability, answer = examples.probabilities[:, chosen].max(-1)
    return {"answers": answer.tolist(), "sure": [[round(p, 3) for p in point] for point in probability.tolist()]}


def writings(rows: dict[str, dict[str, Curve]]) -> dict[str, Any] | None:
    """What each method's networks write, and how much each token surprises its writer; None if no curve has texts."""
    found = {name: next((c.texts for c in row.values() if c.texts), None) for name, row in rows.items()}
    known = {name: texts[0].prompt for name, texts in found.items() if texts}
    if not known:
        return None
    first, *rest = known
    if other := next((name for name in rest if known[name] != known[first]), None):
        raise ValueError(f"{first!r} starts from {known[first]!r}, but {other!r} from {known[other]!r}: use one prompt")
    return {"prompt": known[first], "written": [texts and _written(texts) for texts in found.values()]}


def _written(texts: Sequence[Text]) -> dict[str, Any]:
    """By point: the tokens, and a digit for each, the nats ``-log(probability)``."""
    nats = [(-text.probabilities.log()).clamp(max=SURPRISE).round().int().tolist() for text in texts]
    return {"tokens": [text.tokens for text in texts], "nats": ["".join(map(str, row)) for row in nats]}
