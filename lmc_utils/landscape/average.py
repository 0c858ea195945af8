"""Averages of networks: on the line between two, on the simplex between several, of their circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..arguments import function, instance, number, real
from ..networks.base import Network, check_networks, check_same_architecture

Merge = Callable[[Network, Network, float], Network]


def check_several(networks: Sequence[Network]) -> None:
    """Raise an error if this is no list of networks of one architecture."""
    instance("networks", networks, Sequence)
    check_networks(**{f"networks[{i}]": network for i, network in enumerate(networks)})
    if networks:
        check_same_architecture(*networks)


def merge(a: Network, b: Network, lam: float = 0.5) -> Network:
    """The network on the straight line between two networks: ``(1 - lam) a + lam b``, parameter by parameter.

    Raises
    ------
    TypeError
        If a or b is no network, or ``lam`` no number.
    ValueError
        If ``lam`` is outside [0, 1] or the architectures differ.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> lmc.merge(a, b, 0.25).params["wte"].shape
    torch.Size([12, 32])
    """
    check_networks(a=a, b=b)
    if not 0 <= real("lam", lam) <= 1:
        raise ValueError(f"lam is a position between network a (0) and network b (1), in [0, 1], but is {lam}")
    check_same_architecture(a, b)
    return Network(a.architecture, {name: torch.lerp(p, b.params[name], lam) for name, p in a.params.items()})


def average(networks: Sequence[Network], weights: Sequence[float] | None = None, *, merge: Merge = merge) -> Network:
    """The network at a point of the simplex between several networks: ``sum_m weights[m] networks[m]``.

    Network by network, as a running mean: each is merged with the mean of those before it. So the mean of equal
    networks is that network to the last bit, and with two networks this is ``merge(a, b, weights[1])``.

    Parameters
    ----------
    networks
        One or more networks of one architecture, aligned already.
    weights
        Not negative, with sum one; by default all equal.
    merge
        How to average two.

    Raises
    ------
    TypeError
        If one is no network, or a weight no number.
    ValueError
        If there is no network, the architectures differ, or the weights are not as above.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> lmc.average([a, b, c]).params["wte"].shape
    torch.Size([12, 32])
    """
    check_several(networks)
    function("merge", merge)
    weights = [1 / max(1, len(networks))] * len(networks) if weights is None else weights
    instance("weights", weights, Sequence)
    for i, weight in enumerate(weights):
        number(f"weights[{i}]", weight)
    if not networks or len(weights) != len(networks) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"{len(networks)} networks need as many weights, not negative and with sum 1, not {weights}")
    mean, total = networks[0], weights[0]
    for network, weight in zip(networks[1:], weights[1:], strict=True):
        total += weight
        mean = merge(mean, network, weight / total if total else 1.0)
    return mean


def merge_circuits(a: Network, b: Network, lam: float = 0.5) -> Network:
    """The network between a and b whose *circuits* are the averages of theirs: products inside heads, not factors.

    Attention sees the spaces inside a head only through the products QK and OV. Averaging these instead of their
    factors (as the code of arXiv 2506.22712 does) makes the bases inside heads irrelevant, and it leaves the
    architecture: the average of two products of rank n has rank 2 n. So the heads of the result have twice the
    width: the factors of both networks side by side, no product multiplied out. For the stock module the residual
    stream is twice as wide, too. All other parameters are averaged as by :func:`merge`.

    Raises
    ------
    ValueError
        If ``lam`` is outside [0, 1], the architectures differ, or they have no heads.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> lmc.merge_circuits(a, b, 0.25).params["0.q.weight"].shape
    torch.Size([4, 16, 64])
    """
    average = merge(a, b, lam)
    spec, params = average.spec, dict(average.params)
    inner = [name for name, site in spec.sites.items() if site.within]
    if not inner:
        raise ValueError(f"networks without heads have no circuits; the sites are {list(spec.sites)}")
    for site in inner:
        for touch in spec.touching(site):
            halves = (1 - lam) ** 0.5 * a.params[touch.name], lam**0.5 * b.params[touch.name]
            params[touch.name] = torch.cat(halves, touch.axis)
    wide = spec.resize({site: 2 * spec.sites[site].size for site in inner})
    streams = {name: site for name, site in spec.sites.items() if site.symmetry.is_stream}
    twice = {n: s.symmetry.from_matrix(torch.eye(s.size).repeat_interleave(2, 0)) for n, s in streams.items()}
    widen = replace(wide.identity(), maps=wide.identity().maps | twice)
    return Network(a.architecture.resize(widen.target.sizes), widen.act(params, twice))
