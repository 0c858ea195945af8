"""``explore_symmetry``: a walk inside one class of symmetry; the weights move and the answers stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from ..matching.weight import rows
from ..networks.base import Network
from ..progress import progress
from ..spec import Touch, act_on_site
from .figure import Figure, pictures, png, power, script, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure
    from tokenizers import Tokenizer

Transformation = Callable[[Network, float], Network]
CAPTION = (
    "Slide from the identity to a random element: the weights move, the answer does not. Then switch to what is no "
    "symmetry, and slide again."
)
BLOCK = 48  # rows and columns of a matrix at most
BARS = 10  # answers at most
TOKENS = 20  # that a language model writes
INK = "light-dark(#000,#fff)"
LEVELS = 15  # of colour, which need four bits a pixel; the middle one is no colour


class Walk(Figure):
    """The figure that :func:`explore_symmetry` returns."""

    kind = "symmetry"
    _esm = script("symmetry")

    @property
    def data(self) -> dict[str, Any]:
        """What is shown: ``t``, and for each transformation ``distance`` (relative), ``change`` (of a logit) over t."""
        state = json.loads(self.state)
        last = len(state["change"][0]) - 1
        numbers = zip(state["ways"], state["distance"], state["change"], strict=True)
        return {
            "t": [k / last for k in range(last + 1)],
            "ways": {way: {"distance": distance, "change": change} for way, distance, change in numbers},
        }

    @property
    def summary(self) -> str:
        state = json.loads(self.state)
        title = f"{state['title']}. " if state["title"] else ""
        return f"{title}Weights and answers on a walk at the site {state['site']}: {', '.join(state['ways'])}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        return HEADER, [
            [way, show(numbers["distance"][-1]), power(numbers["change"][-1])]
            for way, numbers in self.data["ways"].items()
        ]

    def static(self) -> StaticFigure:
        """The twin in matplotlib: the largest change of a logit along each walk, and the answers at its end."""
        from matplotlib.figure import Figure as StaticFigure

        state, data = json.loads(self.state), self.data
        figure = StaticFigure(figsize=(9, 3.4), layout="constrained")
        changes, answers = figure.subplots(1, 2, width_ratios=(4, 3))
        rows = [state["answers"][0][0], *(places[-1] for places in state["answers"])]
        height = 0.8 / len(rows)
        for i, (values, (color, hatch)) in enumerate(zip(rows, cycle(INKS))):
            places = [k + (i - (len(rows) - 1) / 2) * height for k in range(len(values))]
            answers.barh(places, values, height, facecolor="none" if hatch else color, edgecolor=color, hatch=hatch)
        for i, (name, numbers) in enumerate(data["ways"].items()):
            color, hatch = INKS[(i + 1) % len(INKS)]
            values = [max(x, 1e-17) for x in numbers["change"][1:]]
            changes.plot(data["t"][1:], values, "--o" if hatch else "-o", color=color, markersize=3)
            changes.annotate(
                f"{name}: {power(numbers['change'][-1])}", (1, values[-1]), xytext=(0, -16 if i == 2 else 7),
                textcoords="offset points", color=color, ha="right", fontsize=9, parse_math=False,
            )  # fmt: skip
        changes.set(yscale="log", xlim=(0, 1.02), xlabel="from the identity (0) to a random element (1)")
        changes.margins(y=0.15)
        changes.set_title("largest change of a logit", fontsize=10, loc="left")
        answers.set_yticks(range(len(state["labels"])), state["labels"], parse_math=False, fontsize=9)
        answers.invert_yaxis()
        answers.set_title("probability at the end (grey: before)", fontsize=10, loc="left")
        for axes in (changes, answers):
            axes.spines[["top", "right"]].set_visible(False)
        if state["title"]:
            figure.suptitle(state["title"], fontsize=11, parse_math=False)
        return figure


HEADER = ["transformation", "distance moved, relative to the norm of all weights", "largest change of a logit"]
INKS = [("#8c959f", ""), ("#1f2328", ""), ("#b3261e", "///"), ("#8a5a00", "...")]  # before, symmetry, no symmetries


@torch.no_grad()
def explore_symmetry(
    network: Network,
    site: str,
    inputs: Tensor,
    *,
    allow: str = "invertible",
    wrong: Mapping[str, Transformation] | None = None,
    parameters: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    steps: int = 16,
    seed: int = 0,
    title: str = "",
    caption: str | None = None,
) -> Walk:
    """An interactive figure of a symmetry: weights move, the function does not. All is computed in float64.

    Parameters
    ----------
    network
        The network whose weights are moved.
    site
        Where: a site of ``network.spec``. The walk (:meth:`lmc_utils.Symmetry.walk`) stays in its class.
    inputs
        Shape (n, ...). The largest change of a logit is taken over all of them; of the first the answer is shown,
        which for tokens (n, T) is the next token.
    allow
        How much of the site's class to use, as in :meth:`lmc_utils.Spec.sample`.
    wrong
        What else is no symmetry, to compare with: by its name, what makes a network from the network and the time in
        [0, 1]. Beside it there always is the same map on the weights that write the site, and on none that read it.
    parameters
        Whose weights are shown; by default the first matrix that writes the site and the first that reads it.
    classes
        The names of the classes.
    tokenizer
        Turns tokens into text: the likeliest next tokens, and what the network writes after the first input.
    steps
        The slider has so many places beside the identity.
    seed
        Decides where the walk leads.
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see. A default if None.

    Raises
    ------
    ValueError
        If the network has no such site, a parameter does not touch it, there is no input, or an answer is not finite.
    """
    spec, exact = network.spec.restrict(allow), network.to(torch.float64)
    if site not in spec.sites:
        raise ValueError(f"no site {site!r}; the sites are {list(spec.sites)}")
    if len(inputs) == 0:
        raise ValueError(f"at least one input is needed, but inputs have the shape {tuple(inputs.shape)}")
    touching = {touch.name: touch for touch in spec.touching(site)}
    shown = [touching[name] for name in _chosen(touching, exact, parameters)]
    generator = torch.Generator().manual_seed(seed)
    walk = spec.sites[site].symmetry.walk(spec.sites[site].size, generator, steps, batch=spec.batch(site))

    def symmetry(net: Network, time: float) -> Network:
        return replace(net, params=net.params | act_on_site(spec, site, walk[round(time * steps)], net.params))

    def writers_only(net: Network, time: float) -> Network:
        moved = symmetry(net, time).params
        return replace(net, params=net.params | {n: moved[n] for n, touch in touching.items() if not touch.dual})

    ways = {"symmetry": symmetry, "writers only": writers_only, **(wrong or {})}
    before, norm = exact(inputs), _norm(exact.params.values())
    distance, change, answers, texts, blocks = [], [], [], [], [[] for _ in shown]
    for name, time in progress([(way, k / steps) for way in ways for k in range(steps + 1)], desc="walk"):
        moved = ways[name](exact, time)
        logits = moved(inputs)
        if not logits.isfinite().all():
            raise ValueError(f"{name!r} gives logits that are not finite at time {time:.3g}")
        distance.append(_norm(p - exact.params[n] for n, p in moved.params.items()) / norm)
        change.append((logits - before).abs().max().item())
        answers.append(logits[0].flatten(0, -2)[-1].softmax(-1) if logits.ndim > 2 else logits[0].softmax(-1))
        for frames, touch in zip(blocks, shown, strict=True):
            frames.append(_block(moved.params[touch.name], touch))
        if tokenizer is not None:
            texts.append(tokenizer.decode(_continue(moved, inputs[:1])))
    probabilities = torch.stack(answers)
    best = _likely(probabilities)

    def by_way(values: Sequence[Any]) -> list[list[Any]]:
        return [list(values[i : i + steps + 1]) for i in range(0, len(values), steps + 1)]

    return Walk(
        {
            "title": title,
            "caption": CAPTION if caption is None else caption,
            "site": site,
            "header": HEADER,
            "ways": list(ways),
            "distance": by_way([float(f"{x:.4g}") for x in distance]),
            "change": by_way([float(f"{x:.4g}") for x in change]),
            "labels": [_label(i, classes, tokenizer) for i in best.tolist()],
            "answers": by_way([[round(p, 4) for p in row] for row in probabilities[:, best].tolist()]),
            "picture": pictures(inputs[:1]) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None,
            "prompt": "" if tokenizer is None else tokenizer.decode(inputs[0].tolist()),
            "texts": by_way(texts),
            "blocks": [
                _pictured(site, touch, frames, spec.sites[site].size, by_way)
                for touch, frames in zip(shown, blocks, strict=True)
            ],
        }
    )


def _chosen(touching: Mapping[str, Touch], network: Network, names: Sequence[str] | None) -> list[str]:
    """The parameters to show: those asked for, or the first matrix that writes the site and the first that reads it."""
    if names is None:
        matrices = [touch for touch in touching.values() if network.params[touch.name].ndim > 1]
        return [next(touch.name for touch in matrices if touch.dual == dual) for dual in (False, True)]
    if unknown := [name for name in names if name not in touching]:
        raise ValueError(f"the parameters {unknown} do not touch the site; those that do are {list(touching)}")
    return list(names)


def _norm(parameters: Any) -> float:
    return sum(p.square().sum().item() for p in parameters) ** 0.5


def _block(parameter: Tensor, touch: Touch) -> Tensor:
    """A corner of a matrix: rows write the site, or columns read it; heads stand one after the other."""
    corner = rows(parameter, touch).flatten(0, -2)[:BLOCK, :BLOCK]
    return corner.mT if touch.dual else corner


def _continue(network: Network, tokens: Tensor) -> list[int]:
    """The tokens (1, T) and what follows them, always the likeliest token."""
    reads = network.architecture.reads
    start = tokens.shape[1]
    while tokens.shape[1] < min(start + TOKENS, reads[1] if reads else start):
        tokens = torch.cat([tokens, network(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[0, start:].tolist()


def _likely(probabilities: Tensor) -> Tensor:
    """The likeliest classes at first, and those that become it at any place (places, classes); in their first order."""
    count = min(BARS, probabilities.shape[1])
    score = probabilities.amax(0)
    score[probabilities[0].topk(count // 2).indices] += 1
    chosen = score.topk(count).indices
    return chosen[probabilities[0, chosen].argsort(descending=True)]


def _label(index: int, classes: Sequence[str], tokenizer: Tokenizer | None) -> str:
    if tokenizer is not None:
        return tokenizer.decode([index]).replace(" ", "␣").replace("\n", "⏎")
    return classes[index] if classes else str(index)


def _pictured(site: str, touch: Touch, frames: list[Tensor], size: int, by_way: Callable) -> dict[str, Any]:
    """The frames of one block below each other in one image, equal ones once; colours are fixed by the first.

    Lines part the heads, each of which has ``size`` dimensions.
    """
    scale, half = 3 * frames[0].square().mean().sqrt().clamp_min(1e-300), LEVELS // 2
    levels = [((x / scale).clamp(-1, 1) * half + half).round().to(torch.uint8) for x in frames]
    index: dict[bytes, int] = {}
    places = [index.setdefault(x.numpy().tobytes(), len(index)) for x in levels]
    height, width = levels[0].shape
    image = Image.frombytes("P", (width, height * len(index)), b"".join(index))
    image.putpalette(bytes(int(255 * c) for k in range(LEVELS) for c in colormaps["RdBu_r"](k / (LEVELS - 1))[:3]))
    cut = size / (width if touch.dual else height)
    lines = f"repeating-linear-gradient({90 if touch.dual else 180}deg,#0000 0 calc({cut:.3%} - 1px),{INK} 0 {cut:.3%})"
    return {
        "name": f"{touch.name} {'reads' if touch.dual else 'writes'} {site}",
        "style": f"aspect-ratio:{width}/{height};background-size:auto,100% {len(index)}00%;"
        f"background-image:{lines if cut < 1 else 'none'},url({png(image)})",
        "frames": by_way(places),
        "count": len(index),
    }
