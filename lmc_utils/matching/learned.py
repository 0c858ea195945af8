"""Learned matching: move one network by gradient descent on the loss of the average (arXiv 2506.22712, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import number
from ..data import Batch
from ..landscape.average import Merge, merge
from ..landscape.recipe import Recipe
from ..networks.base import Network, check_networks
from ..spec import Alignment
from ..storage import named
from .mixture import check_start, learn
from .weight import weight_matching


def learned_matching(
    a: Network,
    b: Network,
    batches: Iterable[Batch],
    *,
    init: Alignment | None = None,
    allow: str = "invertible",
    sites: Collection[str] | None = None,
    steps: int = 300,
    lr: float = 2e-2,
    batch_size: int | None = None,
    warmup: float = 0.1,
    lambdas: tuple[float, float] | Callable[[], float] = (0.4, 0.6),
    target: str = "labels",
    merge: Merge = merge,
    augment: Callable[[Tensor], Tensor] | None = None,
    dual: bool = False,
    soft: bool = False,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Alignment:
    """The symmetry g for which averages of a and g(b) have the least loss, found by gradient descent.

    Each site has a latent, which its class turns into a map: a polar factor on the residual stream, free matrices
    inside heads, an assignment with straight-through gradients where only relabelling is allowed. At each step the
    weights of b are moved and averaged with those of a once, the stock module runs the average, and Adam moves the
    latents. b is moved by ``init`` first, so that latents start at the identity.

    Parameters
    ----------
    a, b
        Networks of one architecture; a may be wider at some sites, or have more heads. What b's units become where
        they were split is decided by ``init``; the shares of their output are learned.
    batches
        Training data, ``(inputs, targets)``: images (n, C, H, W) or tokens (n, T) with int64 targets (n,) or (n, T).
    init
        Where to start; by default what :func:`weight_matching` finds.
    allow
        ``"permutation"`` everywhere; also ``"orthogonal"`` maps where they are symmetries; or all, ``"invertible"``.
    sites
        What to learn; the other sites stay as ``init`` has them. Default: every site with continuous maps, or all
        sites if there is none. (Beside continuous maps, permutations cost time and do not change:
        arXiv 2506.22712, Fig. 5.)
    steps, lr, batch_size, warmup
        Steps of Adam; its highest learning rate; samples in a step, where ``batches`` are
        :class:`lmc_utils.data.Batches` (default: 64, or as many texts as make 1,024 tokens); the part of the steps in
        which the rate rises, before it falls along half a cosine. (Without warm-up the first step moves every latent by
        ``lr`` and undoes the start.)
    lambdas
        Where on the line the loss is taken: uniformly in this interval, or what a function returns (torch's global
        random numbers are seeded for it).
    target
        ``"labels"``, or ``"ensemble"``: the mean of what a and b answer, at two more passes a step.
    merge
        How to average; :func:`lmc_utils.merge_circuits` averages the products inside heads, as the paper's code does.
    augment
        What to do to each single input before a step uses it, as in training.
    dual
        Move both networks. What is returned moves b alone, to the same effect: ``g_a^-1 g_b``.
    soft
        Doubly stochastic maps instead of permutations. **The result is no symmetry**: ``g(b)`` is another function
        than b. Measure barriers against the original network: ``interpolate(..., ends=(a, b))``.
    validation, patience
        Data held out: the alignment whose midpoint has the least loss on them is kept; and after how many of the ten
        evaluations without a better one to stop.
    seed
        Decides the order of the data and the positions.
    checkpoint
        A safetensors file to write ten times on the way, and to go on from if it exists.

    Returns
    -------
    Alignment
        With a :class:`lmc_utils.train.History` in ``history``.

    Raises
    ------
    TypeError, ValueError
        Before the work, if the architectures differ, b is wider at some site, an argument is not as above, ``lambdas``
        leave [0, 1], the networks cannot run on the data, or the checkpoint is corrupt or of another run. Later, if the
        loss or the maps are not finite (``lr`` is too high), or a function of yours returns what it may not.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> g = lmc.learned_matching(a, b, sums, steps=2)
    >>> len(g.history.loss)
    2
    """
    lam = _sampler(lambdas)

    def sample() -> tuple[float, float]:
        position = lam()
        return 1 - position, position

    check_networks(a=a, b=b)
    if init is not None:
        check_start(init)
    _, g = learn(
        [a, b],
        lambda: [a.spec.identity(), weight_matching(a, b, allow=allow) if init is None else init],
        batches,
        sample,
        {"lambdas": named(lambdas) if callable(lambdas) else [float(end) for end in lambdas]},
        Recipe(
            steps, lr, batch_size, warmup=warmup, augment=augment, patience=patience, seed=seed, checkpoint=checkpoint
        ),
        allow=allow,
        sites=sites,
        target=target,
        merge=merge,
        dual=dual,
        soft=soft,
        validation=validation,
    )
    return g


def _sampler(lambdas: tuple[float, float] | Callable[[], float]) -> Callable[[], float]:
    if callable(lambdas):
        return lambda: number("what lambdas() returns", lambdas(), 0, 1)
    if not isinstance(lambdas, (tuple, list)) or len(lambdas) != 2:
        raise TypeError(f"lambdas must be two positions, or a function that draws one, not {lambdas!r}")
    low, high = (number("lambdas", end) for end in lambdas)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"lambdas must be an interval inside [0, 1], not {lambdas}")
    return lambda: low + (high - low) * torch.rand(()).item()
