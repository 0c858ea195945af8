"""Many networks in one coordinate system, their *universe*, found by alternating alignment and averaging.

The idea is that of C2M3 (Crisostomi et al., arXiv 2405.17897); for transformers arXiv 2506.22712, section 4. Pairs are
compared through the universe, so going round any circle of networks leads back to where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import count, number
from ..data import Batch
from ..landscape.average import average, check_several
from ..landscape.recipe import Recipe
from ..networks.base import Network, in_full
from ..progress import progress
from ..spec import Alignment
from .balance import balance
from .mixture import check_start, learn
from .weight import weight_matching


def spread(networks: Sequence[Network]) -> float:
    """The mean squared distance of networks from their mean, over all weights."""
    mean = average(networks).params
    squares = [(p - mean[name]).double().square().sum() for net in networks for name, p in net.params.items()]
    return sum(squares).item() / len(networks)


@torch.no_grad()
def universe_matching(
    networks: Sequence[Network], *, allow: str = "invertible", rounds: int = 20
) -> tuple[Network, list[Alignment]]:
    """One coordinate system for several networks: all are brought close to their mean.

    This needs no data and no random numbers. In turn, each network is aligned by :func:`weight_matching` with the mean
    of the others (in the first round: of those before it, so the first stays). A step that would make the distance
    larger is not taken; a round in which the mean squared distance from the mean falls by less than a thousandth is the
    last. (arXiv 2506.22712 aligns with the mean of all, in which a network meets itself and holds on to where it is.)
    Spaces with scales are balanced once, before: an average needs bases of one size.

    The map from network j to network i is ``gs[i].inverse() @ gs[j]``. Composed around any cycle these give the
    identity, which maps found pair by pair do not.

    Parameters
    ----------
    networks
        Two or more, of one architecture.
    allow
        ``"permutation"`` everywhere; also ``"orthogonal"`` maps where they are symmetries; or all, ``"invertible"``.
    rounds
        Stop after so many, converged or not.

    Returns
    -------
    universe : Network
        The mean of the moved networks, in the first one's dtype.
    gs : list of Alignment
        ``gs[m](networks[m])`` is network m in the universe; in ``history`` the mean squared distance from the mean,
        at the start (balanced only) and after each round.

    Raises
    ------
    ValueError
        If there are fewer than two networks, their architectures differ, a weight is not finite, ``allow`` is unknown,
        or ``rounds`` are below 1.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> universe, alignments = lmc.universe_matching([a, b, c])
    >>> len(alignments)
    3
    """
    _check(networks)
    count("rounds", rounds)
    dtype, networks = networks[0].reference.dtype, in_full(*networks)
    gs = [balance(network, allow) for network in networks]
    moved = [g(network) for g, network in zip(gs, networks, strict=True)]
    rest = "permutation" if allow == "permutation" else "orthogonal"  # between balanced networks no scale is left
    history = [spread(moved)]
    for round_ in progress(range(rounds), desc="universe", leave=False):
        for m, network in enumerate(moved):
            others = moved[:m] + (moved[m + 1 :] if round_ else [])
            if not others:
                continue
            step = weight_matching(average(others), network, allow=rest)
            if step.history[-1] > step.history[0]:  # its local optimum may be worse than what was
                moved[m], gs[m] = step(network), step @ gs[m]
        history.append(spread(moved))
        if round_ and history[-1] >= 0.999 * history[-2]:
            break
    return average(moved).to(dtype), [replace(g, history=tuple(history)) for g in gs]


def learned_universe(
    networks: Sequence[Network],
    batches: Iterable[Batch],
    *,
    init: Sequence[Alignment] | None = None,
    allow: str = "invertible",
    concentration: float = 5.0,
    steps: int = 300,
    lr: float = 2e-2,
    batch_size: int | None = None,
    warmup: float = 0.1,
    augment: Callable[[Tensor], Tensor] | None = None,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> tuple[Network, list[Alignment]]:
    """The coordinate system in which mixtures of several networks have the least loss, found by gradient descent.

    Learned matching for more than two networks (arXiv 2506.22712, section 4): each step draws two or more of them, a
    face of the simplex, and the weights of a mixture of these from a Dirichlet distribution; Adam moves the maps down
    the loss of the mixture. (The paper draws from the whole simplex, with concentration 0.1. The worst mixtures lie in
    the middle of edges, where such draws are rare.)

    The first network stays where ``init`` has it: a map of all networks moves their mixtures alike and changes no loss.
    The losses of the networks themselves, which the barrier subtracts, no symmetry changes: they are not computed.

    Parameters
    ----------
    networks
        Two or more, of one architecture.
    batches
        Training data, as for :func:`learned_matching`.
    init
        Where to start, one alignment a network; by default what :func:`universe_matching` finds.
    concentration
        All parameters of the Dirichlet distribution on the face. The larger, the nearer are draws to its middle; at 1
        they lie anywhere on it alike, below 1 near its corners.
    allow, steps, lr, batch_size, warmup, augment, patience, seed, checkpoint
        As for :func:`learned_matching`.
    validation
        Data held out: the alignments whose mean has the least loss on them are kept.

    Returns
    -------
    universe : Network
        The mean of the moved networks.
    gs : list of Alignment
        One for each network, with one :class:`lmc_utils.train.History` in ``history``.

    Raises
    ------
    ValueError
        If there are fewer than two networks, ``init`` has not one alignment for each, ``concentration`` is not
        positive, and as :func:`learned_matching` does.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> universe, alignments = lmc.learned_universe([a, b], sums, steps=2)
    >>> len(alignments)
    2
    """
    _check(networks)
    concentration = number("concentration", concentration, above=0)
    if init is not None:
        init = [init] if isinstance(init, Alignment) else list(init)
        for start in init:
            check_start(start)
        if len(init) != len(networks):
            raise ValueError(f"{len(networks)} networks need as many alignments in init, not {len(init)}")

    def sample() -> list[float]:
        face = torch.randperm(len(networks))[: torch.randint(2, len(networks) + 1, ())]
        inside = torch.distributions.Dirichlet(torch.full((len(face),), concentration)).sample()
        return torch.zeros(len(networks)).index_put((face,), inside).tolist()

    gs = learn(
        networks,
        lambda: universe_matching(networks, allow=allow)[1] if init is None else init,
        batches,
        sample,
        {"concentration": concentration},
        Recipe(
            steps, lr, batch_size, warmup=warmup, augment=augment, patience=patience, seed=seed, checkpoint=checkpoint
        ),
        allow=allow,
        validation=validation,
    )
    return average([g(network) for g, network in zip(gs, networks, strict=True)]), gs


def _check(networks: Sequence[Network]) -> None:
    check_several(networks)
    if len(networks) < 2:
        raise ValueError(f"a universe is of two networks or more, not of {len(networks)}")
