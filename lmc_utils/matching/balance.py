"""Balancing: among all scaled copies of a network, the one with the smallest weights."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from ..networks.base import Network, in_full
from ..spec import Alignment, Params, Spec, Touch, move_site, rows
from ..symmetry import Symmetry

ROUNDS = 200  # at most; two are enough, unless spaces of different classes share weights
NEWTON = 100  # steps at most; about ten are needed, and more where squares of weights differ by many orders of e


def balance(network: Network, allow: str) -> Alignment:
    """Bring every space with scales into the basis in which its writers and readers are equally large.

    In classes that are not compact a score alone decides nothing: a larger map always scores higher. Between two
    balanced networks an orthogonal map or a permutation is left, which a score does decide. The balanced weights are
    those of least norm among all scaled copies of the network.

    Raises
    ------
    ValueError
        If a weight is not finite, or ``allow`` is unknown.
    """
    (network,) = in_full(network)
    return balanced(network.spec, network.params, network.spec.restrict(allow))[0]


def balanced(spec: Spec, params: Params, classes: Spec) -> tuple[Alignment, Params]:
    """The alignment that balances the sites whose class in ``classes`` has scales, and the parameters there.

    Parameters that touch no scales are shared, not copied.
    """
    params, g = dict(params), Alignment(spec, classes.resize(spec.sizes).identity().maps)
    scaled = {name: site.symmetry for name, site in classes.sites.items() if not site.symmetry.compact}
    together = [name for name, symmetry in scaled.items() if symmetry.scales]
    blocks = [[name] for name in scaled if name not in together] + [together] * bool(together)
    size = max((spec.sizes[name] for name in scaled), default=0)
    near = 100 * size**0.5 * torch.finfo(next(iter(params.values())).dtype).eps
    for _ in range(ROUNDS):
        change = 0.0
        for block in blocks:
            logs = _log_scales(spec, params, block) if block is together else {}
            for name in block:
                symmetry = scaled[name]
                step = symmetry.learn(logs[name]) if logs else _balance(spec, params, name, symmetry)
                move_site(spec, name, step, params)
                g = g.then(name, step)
                eye = torch.eye(spec.sizes[name], dtype=torch.float64)
                change = max(change, (step.matrix() - eye).abs().max().item())
        if change < near or len(blocks) < 2:
            break
    return g, params


def _balance(spec: Spec, params: Params, site: str, symmetry: type[Symmetry]) -> Symmetry:
    """The map that balances one site, while the others stay as they are."""
    grams = {False: torch.zeros(()), True: torch.zeros(())}
    for touch in spec.touching(site):
        x = rows(params[touch.name], touch).double()  # or rounding would look like live directions
        grams[touch.dual] = grams[touch.dual] + x @ x.mT
    return symmetry.balance(grams[False].cpu(), grams[True].cpu())  # maps live on the CPU, weights anywhere


def _log_scales(spec: Spec, params: Params, sites: Collection[str]) -> dict[str, Tensor]:
    """The logarithms of the scales of all these sites for which the sum of the squared weights is least.

    Layers share weights, so that balancing one upsets the next: taken in turn, a deep residual network needs thousands
    of rounds. Together they are a convex problem. A weight that writes unit i and reads unit j is scaled by
    ``exp(u_i - u_j)``; with a row of signs for each weight the sum is ``f(u) = sum_e s_e exp(2 A u)_e``, its gradient
    ``2 A^T w`` and its Hessian ``4 A^T diag(w) A`` with ``w = s exp(2 A u)``: the Laplacian of the network's graph.
    Newton's method solves it. A step that changes no weight by more than a factor of e makes the sum smaller.

    Returns
    -------
    dict
        For each site float64, (*sizes of all that it lies within, size); 0 for a unit that nothing writes or reads.
    """
    A, squares, index = _incidence(spec, params, sites)
    written, read = ((side.T @ squares) > 0 for side in (A.maximum(0), -A.minimum(0)))
    free = np.flatnonzero(written & read)
    A, u, last = A[:, free], np.zeros(A.shape[1]), 1.0
    touched = abs(A).T
    for _ in range(NEWTON if len(free) else 0):
        w = squares * np.exp(2 * (A @ u[free]))
        hessian, preconditioner = (
            LinearOperator((len(free), len(free)), product, dtype=w.dtype)
            for product in (lambda x, w=w: 2 * (A.T @ (w * (A @ x))), lambda x, d=2 * (touched @ w): x / d)
        )
        # as exact as the last step was small
        step, _ = cg(hessian, -(A.T @ w), rtol=min(0.1, max(last, 1e-10)), M=preconditioner)
        step = step / max(1.0, 2 * abs(A @ step).max())
        u[free] += step
        last = abs(step).max()
        if last < 1e-8:  # the next one would be its square
            break
    return {name: torch.from_numpy(u[units]) for name, units in index.items()}


def _incidence(
    spec: Spec, params: Params, sites: Collection[str]
) -> tuple[csr_array, np.ndarray, dict[str, np.ndarray]]:
    """A row for each weight, with 1 for each unit that it writes and -1 for each that it reads; squares; units.

    Weights that only axes without scales tell apart are summed. Units are numbered through all sites.
    """
    index, touching, count = {}, {}, 0
    for site in sites:
        shape = (*spec.batch(site), spec.sizes[site])
        index[site] = np.arange(count, count := count + math.prod(shape)).reshape(shape)
        for touch in spec.touching(site):
            touching.setdefault(touch.name, []).append((touch, index[site]))
    squares, signs = [], []
    for name, touches in touching.items():
        kept = {axis for touch, _ in touches for axis in (*touch.batch, touch.axis)}
        square = params[name].double().square().cpu().numpy()
        square = square.sum(tuple(set(range(square.ndim)) - kept), keepdims=True)
        squares.append(square.ravel())
        sides = np.repeat([-1.0 if touch.dual else 1.0 for touch, _ in touches], square.size)
        weights = np.tile(np.arange(square.size), len(touches))
        units = np.concatenate([_spread(numbers, touch, square.shape) for touch, numbers in touches])
        signs.append(csr_array((sides, (weights, units)), shape=(square.size, count)))
    return csr_array(vstack(signs)), np.concatenate(squares), index


def _spread(units: np.ndarray, touch: Touch, shape: tuple[int, ...]) -> np.ndarray:
    """The unit of each weight of a parameter of this shape."""
    places = (*touch.batch, touch.axis)
    units = np.moveaxis(units.reshape(*units.shape, *[1] * (len(shape) - units.ndim)), range(len(places)), places)
    return np.broadcast_to(units, shape).ravel()
