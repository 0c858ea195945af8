"""``explore_symmetry``: a walk inside one class of symmetry; the weights move and the answers stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from ..arguments import BROKEN, brief, count, instance, wording
from ..data import vocabulary
from ..landscape.evaluate import answer
from ..networks.base import Network, check_networks
from ..progress import progress
from ..spec import Touch, act_on_site
from ..spec import rows as by_site
from .figure import Figure, png, power, show, sprite
from .methods import check_words, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

Transformation = Callable[[Network, float], Network]
CAPTION = (
    "Slide from the identity to a random element: the weights move, the answer does not. Then switch to what is no "
    "symmetry, and slide again."
)
BLOCK = 36  # rows and columns of a matrix at most
BARS = 10  # answers at most
WAYS = ("symmetry", "writers only")  # that are always there
TOKENS = 20  # that a language model writes
LEVELS = 15  # of colour, which need four bits a pixel; the middle one is no colour


class Walk(Figure):
    """The figure that :func:`explore_symmetry` returns."""

    kind = "symmetry"

    @property
    def data(self) -> dict[str, Any]:
        """``t``, and for each transformation over t its ``distance`` (relative) and the ``change`` of a logit."""
        state = self.shown
        last = len(state["change"][0]) - 1
        numbers = zip(state["ways"], state["distance"], state["change"], strict=True)
        return {
            "t": [k / last for k in range(last + 1)],
            "ways": {way: {"distance": distance, "change": change} for way, distance, change in numbers},
        }

    @property
    def summary(self) -> str:
        state = self.shown
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

        state, data = self.shown, self.data
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
SPACES = {  # what the sites of transformers are, by the first part of their names
    "r": "the residual stream", "ff": "hidden units", "heads": "heads", "qk": "queries and keys", "ov": "values"
}  # fmt: skip
INKS = [("#8c959f", ""), ("#1f2328", ""), ("#b3261e", "///"), ("#8a5a00", "\\\\\\")]  # before, symmetry, no symmetries


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
        The slider has so many places beside the identity, 1,000 at most.
    seed
        Decides where the walk leads.
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see. A default if None.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the network has no such site, a parameter does not touch it, there is no input or no step, the network cannot
        read the inputs, a tokenizer comes with a network that reads no tokens or fewer, there is not one name for each
        class, a transformation has the name of one that is always there, or an answer is not finite.

    Examples
    --------
    >>> import torch
    >>> import lmc_utils as lmc
    >>> digits = lmc.load_data("digits").test
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    >>> lmc.explore_symmetry(lmc.canonicalize(model), "ff.0", digits.inputs[:2], steps=2)
    Weights and answers on a walk at the site ff.0: symmetry, writers only
    """
    check_networks(network=network)
    check_words(title, caption)
    instance("inputs", inputs, Tensor)
    instance(
        "tokenizer", tokenizer, (Tokenizer, NoneType), "a fast tokenizer of transformers has one, .backend_tokenizer"
    )
    count("steps", steps, 1, 1000)
    count("seed", seed, -(2**63), 2**64 - 1)
    wrong = {} if wrong is None else wrong
    named("wrong", wrong, '{"halved": function of a network and the time, ...}')
    if taken := [name for name, make in wrong.items() if name in WAYS or not callable(make)]:
        raise ValueError(f"wrong[{taken[0]!r}] must be a function with a name other than {' and '.join(WAYS)}")
    instance("classes", classes, Sequence)
    for i, name in enumerate(classes):
        wording(f"classes[{i}]", name)
    spec, exact = network.spec.restrict(allow), network.to(torch.float64)
    if not isinstance(site, str) or site not in spec.sites:
        raise ValueError(f"no site {brief(site)}; the sites are {list(spec.sites)}")
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(f"at least one input is needed, but inputs have the shape {tuple(inputs.shape)}")
    if tokenizer is not None and exact.architecture.reads is None:
        raise ValueError("a tokenizer, but this network reads no tokens: name its classes instead")
    if tokenizer is not None and (needed := vocabulary(tokenizer)) > exact.architecture.reads[0]:
        raise ValueError(f"the tokenizer has the number {needed - 1}, which the network does not know: take its own")
    touching = {touch.name: touch for touch in spec.touching(site)}
    shown = [touching[name] for name in _chosen(touching, exact, parameters)]
    size, generator = spec.sites[site].size, torch.Generator().manual_seed(seed)
    walk = spec.sites[site].symmetry.walk(size, generator, steps, batch=spec.batch(site))
    before, norm = answer(exact, inputs), _norm(exact.params.values())
    if classes and tokenizer is None and len(classes) != before.shape[-1]:
        raise ValueError(f"classes must name all {before.shape[-1]} classes, but there are {len(classes)} names")

    def symmetry(net: Network, time: float) -> Network:
        return replace(net, params=net.params | act_on_site(spec, site, walk[round(time * steps)], net.params))

    def writers_only(net: Network, time: float) -> Network:
        moved = symmetry(net, time).params
        return replace(net, params=net.params | {n: moved[n] for n, touch in touching.items() if not touch.dual})

    def look(name: str, time: float) -> _Place:
        moved = ways[name](exact, time)
        instance(f"what {name!r} makes of the network", moved, Network)
        logits = moved(inputs)
        if not logits.isfinite().all():
            raise ValueError(f"{name!r} gives logits that are not finite at time {time:.3g}")
        return _Place(
            float(f"{_norm(p - exact.params[n] for n, p in moved.params.items()) / norm:.4g}"),
            float(f"{(logits - before).abs().max():.4g}"),
            logits[0].reshape(-1, logits.shape[-1])[-1].softmax(-1),
            "" if tokenizer is None else tokenizer.decode(_continue(moved, inputs[:1])),
            [_block(moved.params[touch.name], touch) for touch in shown],
        )

    ways = {**dict(zip(WAYS, (symmetry, writers_only), strict=True)), **wrong}
    rows = [[look(way, k / steps) for k in range(steps + 1)] for way in progress(ways, desc="walk")]
    likely = _likely(torch.stack([place.answer for row in rows for place in row]))
    return Walk(
        {
            "title": title,
            "caption": CAPTION if caption is None else caption,
            "site": site,
            "header": HEADER,
            "ways": list(ways),
            "distance": [[place.distance for place in row] for row in rows],
            "change": [[place.change for place in row] for row in rows],
            "labels": [_label(i, classes, tokenizer) for i in likely.tolist()],
            "answers": [[[round(p, 4) for p in place.answer[likely].tolist()] for place in row] for row in rows],
            "picture": sprite(inputs[:1]) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None,
            "prompt": "" if tokenizer is None else tokenizer.decode(inputs[0].tolist()),
            "texts": [] if tokenizer is None else [[place.text for place in row] for row in rows],
            "blocks": [
                {
                    "name": f"what {'reads' if touch.dual else 'writes'} {_called(site)}: {touch.name}",
                    **_pictured([[place.blocks[i] for place in row] for row in rows], size, across=touch.dual),
                }
                for i, touch in enumerate(shown)
            ],
        }
    )


def _called(site: str) -> str:
    """A site in plain words, where its kind has some."""
    return SPACES.get(site.partition(".")[0], f"the site {site}")


class _Place(NamedTuple):
    """What is seen at one place of a walk."""

    distance: float
    change: float
    answer: Tensor
    text: str
    blocks: list[Tensor]


def _chosen(touching: Mapping[str, Touch], network: Network, names: Sequence[str] | None) -> list[str]:
    """The parameters to show: those asked for, or the first matrix that writes the site and the first that reads it."""
    if names is None:
        matrices = [touch for touch in touching.values() if network.params[touch.name].ndim > 1]
        return [next(touch.name for touch in matrices if touch.dual == dual) for dual in (False, True)]
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"parameters must be a list of names of parameters, not {brief(names)}")
    if unknown := [name for name in names if not isinstance(name, str) or name not in touching]:
        raise ValueError(f"the parameters {unknown} do not touch the site; those that do are {list(touching)}")
    return list(names)


def _norm(parameters: Iterable[Tensor]) -> float:
    return sum(p.square().sum().item() for p in parameters) ** 0.5


def _block(parameter: Tensor, touch: Touch) -> Tensor:
    """A corner of a matrix: rows write the site, or columns read it; heads follow one another."""
    corner = by_site(parameter, touch).flatten(0, -2)[:BLOCK, :BLOCK]
    return corner.mT if touch.dual else corner


def _continue(network: Network, tokens: Tensor) -> list[int]:
    """What follows the tokens (1, T), always the likeliest token, as far as the context reaches."""
    start, (_, context) = tokens.shape[1], network.architecture.reads
    while tokens.shape[1] < min(start + TOKENS, context):
        tokens = torch.cat([tokens, network(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[0, start:].tolist()


def _likely(answers: Tensor) -> Tensor:
    """The likeliest classes at first, and those that become it anywhere (places, classes), in the order at first."""
    count = min(BARS, answers.shape[1])
    score = answers.amax(0)
    score[answers[0].topk(count // 2).indices] += 1
    chosen = score.topk(count).indices
    return chosen[answers[0, chosen].argsort(descending=True)]


def _label(index: int, classes: Sequence[str], tokenizer: Tokenizer | None) -> str:
    if tokenizer is not None:
        shown = tokenizer.decode([index]).replace(" ", "␣").replace("\n", "⏎")
        return BROKEN.sub(lambda found: ascii(found[0])[1:-1], shown)  # or the static twin is no SVG
    return classes[index] if classes else str(index)


def _pictured(walks: list[list[Tensor]], size: int, across: bool) -> dict[str, Any]:
    """One block at all places: different frames below each other in one image, colours fixed by the first.

    Lines part the heads, each of which has ``size`` dimensions, down the block or ``across`` it.
    """
    from matplotlib import colormaps

    first = walks[0][0]
    (height, width), half = first.shape, LEVELS // 2
    unit = (3 * first.square().mean().sqrt() / half).clamp_min(1e-300)
    frames: dict[bytes, int] = {}
    places = [
        [
            frames.setdefault(((x / unit).round().clamp(-half, half) + half).byte().numpy().tobytes(), len(frames))
            for x in walk
        ]
        for walk in walks
    ]
    image = Image.frombytes("P", (width, height * len(frames)), b"".join(frames))
    image.putpalette(bytes(int(255 * c) for k in range(LEVELS) for c in colormaps["RdBu_r"](k / (LEVELS - 1))[:3]))
    part, turn = (size / width, 90) if across else (size / height, 180)
    lines = f"repeating-linear-gradient({turn}deg,#0000 0 calc({part:.3%} - 1px),light-dark(#000,#fff) 0 {part:.3%})"
    return {
        "style": f"aspect-ratio:{width}/{height};background-size:auto,100% {len(frames)}00%;"
        f"background-image:{lines if part < 1 else 'none'},url({png(image)})",
        "frames": places,
        "count": len(frames),
    }
