"""The laws that every architecture has to keep, as checks that name what breaks them."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .arguments import instance
from .matching.weight import weight_matching
from .networks.base import Network, answers, assert_canonical, canonicalize, rounding
from .spec import Axis, Params, Spec, act_on_site
from .symmetry import LEVELS, Symmetry

EXACT = 1e-10  # of the largest logit, where a module computes in float64
CLOSE = 1e-8  # of a parameter's largest entry
FOUND = 1e-6  # the same, after matching


@dataclass(frozen=True)
class Case:
    """A model whose laws are checked, and what it is checked on.

    Parameters
    ----------
    given
        The model as it was given. It is only ever copied.
    data
        Inputs, or None for those that the architecture makes.
    """

    given: nn.Module
    data: Tensor | None = None

    @property
    def model(self) -> nn.Module:
        """A copy of its own for each that asks, in float64, with weights, norms and biases far from their start."""
        generator = torch.Generator().manual_seed(0)
        model = copy.deepcopy(self.given).to("cpu", torch.float64).eval()
        with torch.no_grad():
            for p in model.parameters():
                spread = p.std(correction=0).clamp_min(0.2) if p.numel() else 0
                p += 0.5 * spread * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for part in model.modules():
                if isinstance(part, _BatchNorm) and part.running_mean is not None:
                    part.running_mean += 0.3 * torch.randn(part.num_features, generator=generator, dtype=torch.float64)
                    part.running_var *= torch.rand(part.num_features, generator=generator, dtype=torch.float64) + 0.5
        return model

    @cached_property
    def network(self) -> Network:
        """The model's canonical form."""
        return canonicalize(self.model)

    @cached_property
    def inputs(self) -> Tensor:
        """What the functions are compared on."""
        inputs = self.network.architecture.probe() if self.data is None else self.data
        if inputs is None:
            raise ValueError(f"{type(self.network.architecture).__name__} makes no inputs of its own: give some")
        return inputs.detach().to("cpu", torch.float64 if inputs.is_floating_point() else None)

    @cached_property
    def logits(self) -> Tensor:
        """What the canonical form answers."""
        return self.answer(self.network.params)

    @cached_property
    def allowed(self) -> float:
        """How much a logit may differ: more where the stock module rounds to float32 inside, as it is measured."""
        noise = rounding(self.answer, self.network.params)
        return max(EXACT * max(1.0, self.logits.abs().max().item()), 10 * noise)

    @torch.no_grad()
    def answer(self, params: Params) -> Tensor:
        """The logits of the network with other parameters."""
        return replace(self.network, params=params)(self.inputs)

    def error(self, params: Params) -> float:
        """How far these parameters move the logits."""
        return (self.answer(params) - self.logits).abs().max().item()


Check = Callable[[Case], None]


def check_nothing_changes(case: Case) -> None:
    """Folding, running and going back leave the model, the inputs, the weights and all global state as they were."""
    model, inputs = case.model.train(), case.inputs
    with _unchanged("canonicalize", model=model):
        network = canonicalize(model)
    for doing, do in {
        "running the network": lambda: network(inputs),
        "to_model": network.to_model,
        "looking at activations": lambda: network.activations(inputs),
        "moving the network": lambda: network.spec.sample(0)(network)(inputs),
    }.items():
        with _unchanged(doing, model=model, network=network, inputs=inputs):
            do()
    first, second = network(inputs), network(inputs)
    assert torch.equal(first, second), "the network answers differently when it is asked again"


def check_folding(case: Case) -> None:
    """The canonical form has the original model's logits."""
    network = canonicalize(case.model)  # a fresh copy is the reference: a fold may have written into its own
    allowed = case.allowed
    try:
        assert_canonical(network, case.model, case.inputs, allowed)
    except AssertionError as error:
        raise AssertionError(f"{error}; {_forgotten(case)}") from None


def check_going_back(case: Case) -> None:
    """``to_model`` gives the class that came in, and folding it again changes no parameter and no logit."""
    network, model = case.network, case.network.to_model()
    assert type(model) is type(case.given), (
        f"to_model gives a {type(model).__name__}, not a {type(case.given).__name__}"
    )
    assert not (training := [n for n, part in model.named_modules() if part.training]), (
        f"{training} is in training mode"
    )
    for name, tensor in model.state_dict().items():
        assert not tensor.is_meta, f"to_model leaves {name!r} without numbers"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float64, (
            f"to_model makes {name!r} {tensor.dtype}"
        )
    again = canonicalize(model)
    assert again.architecture == network.architecture, "the canonical form of to_model() has another architecture"
    _assert_close(again.params, network.params, CLOSE, "is another one in the canonical form of to_model()")
    assert_canonical(network, model, case.inputs, case.allowed)


def check_sharing(case: Case) -> None:
    """A network shares no memory with its model, with copies of itself, or with the models that it makes."""
    model = case.model
    network = canonicalize(model)
    back, owned = network.to_model(), {"the network's": network.params, "the model's": model.state_dict()}
    others = {"a deep copy's": copy.deepcopy(network).params, "another to_model()'s": network.to_model().state_dict()}
    for own, tensors in (
        owned | {"to_model()'s": {**back.state_dict(), **dict(back.named_buffers())}} | others
    ).items():
        seen = {p.untyped_storage().data_ptr(): (whose, name) for whose, name, p in _tensors(owned) if whose != own}
        for name, p in tensors.items():
            where = seen.get(p.untyped_storage().data_ptr())
            assert where is None or not p.numel(), f"{own} {name!r} shares memory with {where[0]} {where[1]!r}"
        owned[own] = tensors


def check_symmetries(case: Case) -> None:
    """Every class leaves the logits alone, at each site alone and at all sites together, as much as is allowed."""
    spec, seen = case.network.spec, set()
    for allow in LEVELS:
        together = spec.sample(0, allow=allow)
        for name, site in spec.restrict(allow).sites.items():
            if (name, site.symmetry) in seen:
                continue
            seen.add((name, site.symmetry))
            error = case.error(together.act(case.network.params, [name]))
            if not error <= case.allowed:
                raise AssertionError(
                    f"site {name!r}: a {site.symmetry.__name__} changes a logit by {error:.3g}, allowed is "
                    f"{case.allowed:.3g}{_repair(case, name)}"
                )
        error = case.error(together.act(case.network.params))
        assert error <= case.allowed, f"all sites together change a logit by {error:.3g} with allow={allow!r}"


def check_wrong_type_is_caught(case: Case) -> None:
    """Exactness breaks when one axis of one parameter is left out: each is in the function, and the inputs show it."""
    spec, params = case.network.spec, case.network.params
    for name in spec.sites:
        moved = spec.sample(0).act(params, [name])
        touching = {touch.name for touch in spec.touching(name)}
        for parameter in touching if len(touching) > 1 else ():  # of one alone, such as a table whose rows are a set
            if torch.equal(moved[parameter], params[parameter]):
                continue
            assert case.error(moved | {parameter: params[parameter]}) > case.allowed, (
                f"parameter {parameter!r} may ignore the site {name!r}: moved or not, no logit changes. Either it has "
                "no part in the function, or the inputs are too few to tell"
            )


def check_wrong_class_is_caught(case: Case) -> None:
    """Exactness breaks with each larger class: the table is not too small, and the inputs show it."""
    spec, params = case.network.spec, case.network.params
    for name, site in spec.sites.items():
        for larger in _classes():
            if larger is site.symmetry or not larger.includes(site.symmetry) or larger.obstacle(site.size, site.size):
                continue
            element = larger.sample(site.size, torch.Generator().manual_seed(0), batch=spec.batch(name))
            if not _invertible(element) or site.symmetry.contains(element.matrix())[0]:
                continue
            assert case.error(params | act_on_site(spec, name, element, params)) > case.allowed, (
                f"site {name!r}: a {larger.__name__} changes no logit, but the table allows a "
                f"{site.symmetry.__name__} only. Either the class is too small, or the inputs are too few to tell"
            )


def check_activations(case: Case) -> None:
    """Each site is seen, or one inside it: (samples, *sites that it lies within, ..., size), and moves as the site."""
    spec, found = case.network.spec, case.network.activations(case.inputs)
    assert not (unknown := set(found) - set(spec.sites)), f"activations of {sorted(unknown)}, which are no sites"
    for name, site in spec.sites.items():
        seen = {name, *spec.descendants(name)} & set(found)
        assert seen or spec.ancestors(name) or not site.symmetry.moves, f"site {name!r} is not among the activations"
    for name, x in found.items():
        batch, size = spec.batch(name), spec.sizes[name]
        assert x.ndim > len(batch) + 1 and x.shape[1 : len(batch) + 1] == batch and x.shape[-1] == size, (
            f"activations of site {name!r} have shape {tuple(x.shape)}, not (samples, "
            f"{', '.join(map(str, (*batch, '...', size)))})"
        )
        g = spec.sample(0, allow="orthogonal")  # so that what is written and what is read move alike
        moved = replace(case.network, params=g.act(case.network.params, [name])).activations(case.inputs)[name]
        expected = g[name].act(x, x.ndim - 1, tuple(range(1, len(batch) + 1)))
        error = (moved - expected).abs().max().item()
        allowed = max(CLOSE * max(1.0, x.abs().max().item()), case.allowed)
        assert error <= allowed, f"activations of site {name!r} do not move as the site does: {error:.3g} off"


def check_matching(case: Case) -> None:
    """Weight matching finds a planted symmetry again: the weights come back, whatever is allowed."""
    network, done = case.network, []
    for allow in LEVELS:
        if (restricted := network.spec.restrict(allow)) in done:
            continue
        done.append(restricted)
        moved = network.spec.sample(1, allow=allow)(network)
        found = weight_matching(network, moved, allow=allow)(moved)
        _assert_close(found.params, network.params, FOUND, f"does not come back by weight matching, allow={allow!r}")


def check_widening(case: Case) -> None:
    """Where a wider stock module exists, each kind of site can be widened, alone and together, and goes back."""
    spec = case.network.spec
    kinds = {name.partition(".")[0]: [] for name in spec.sites}
    for name in spec.sites:
        kinds[name.partition(".")[0]].append(name)
    outer = [name for name in spec.sites if not spec.ancestors(name)]
    for names in (*kinds.values(), outer):
        try:
            g = spec.sample(0, sizes={name: 2 * spec.sizes[name] for name in names})
            wide = g(case.network)
        except ValueError:
            continue
        with torch.no_grad():
            error = (wide(case.inputs) - case.logits).abs().max().item()
        assert error <= case.allowed, f"the sites {names} twice as wide: a logit changes by {error:.3g}"
        assert_canonical(wide, wide.to_model(), case.inputs, case.allowed)


def check_dtypes(case: Case) -> None:
    """The canonical form has its model's dtype, and in float32 and half types its logits, if the module can."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = case.model.to(dtype)
        inputs = case.inputs.to(dtype) if case.inputs.is_floating_point() else case.inputs
        try:
            answers(model, inputs)
        except RuntimeError:
            if dtype == torch.float32:
                raise
            continue  # a layer is not implemented for it
        network = canonicalize(model)
        back = {f"to_model()'s {name!r}": p for name, p in network.to_model().named_parameters()}
        for name, p in {**{f"parameter {name!r}": p for name, p in network.params.items()}, **back}.items():
            assert p.dtype == dtype, f"{name} is {p.dtype}, where the model is {dtype}"
        try:
            assert_canonical(network, model, inputs)
        except AssertionError as error:
            raise AssertionError(f"in {dtype}: {error}") from None


CHECKS: tuple[Check, ...] = (
    check_nothing_changes,
    check_folding,
    check_going_back,
    check_sharing,
    check_symmetries,
    check_wrong_type_is_caught,
    check_wrong_class_is_caught,
    check_activations,
    check_matching,
    check_widening,
    check_dtypes,
)


def check_network(model: nn.Module, inputs: Tensor | None = None) -> None:
    """Check the laws that every architecture has to keep, for authors of new ones.

    A copy of the model, in float64 and with its weights shaken, goes through all of ``lmc_utils.checks.CHECKS``:
    the canonical form has the original model's logits, goes back, and changes nothing; each class of symmetry is exact
    at each site, and a class or a type that is a little wrong is not; activations have their shape, weight matching
    finds a planted symmetry again, and so on. The idea is scikit-learn's ``check_estimator``.

    Parameters
    ----------
    model
        A small one of an architecture that :func:`canonicalize` knows.
    inputs
        Functions are compared on these, so they should reach every parameter. By default the architecture's own.

    Raises
    ------
    AssertionError
        That names the check, and the site or the parameter that breaks it.
    TypeError, ValueError
        If no architecture knows the model, or it makes no inputs of its own.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    >>> lmc.check_network(model, torch.randn(20, 3))
    """
    __tracebackhide__ = True
    instance("model", model, nn.Module, "give the model itself, not its canonical form")
    if inputs is not None:
        instance("inputs", inputs, Tensor)
    case = Case(model, inputs)
    for check in CHECKS:
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error


@contextmanager
def _unchanged(doing: str, **given: nn.Module | Network | Tensor) -> Iterator[None]:
    """Assert that what is given, and what is global, is as it was before."""

    def global_state() -> dict[str, object]:
        return {
            "torch's random state": torch.get_rng_state().tolist(), "Python's random state": random.getstate(),
            "the default dtype": torch.get_default_dtype(), "the grad mode": torch.is_grad_enabled(),
        }  # fmt: skip

    def states() -> Iterator[tuple[str, Tensor]]:
        for whose, name, x in _tensors({key: _state(value) for key, value in given.items()}):
            yield f"{name!r} of the {whose}" if name else f"the {whose}", x

    def modes() -> dict[str, object]:
        models = [value for value in given.values() if isinstance(value, nn.Module)]
        found = {f"the mode of {name!r}": part.training for model in models for name, part in model.named_modules()}
        trained = {f"requires_grad of {n!r}": p.requires_grad for model in models for n, p in model.named_parameters()}
        return found | trained | global_state()

    before, other = {name: x.detach().clone() for name, x in states()}, modes()
    yield
    after = dict(states())
    assert before.keys() == after.keys(), f"{doing} adds or removes {sorted(before.keys() ^ after.keys())}"
    for name, x in before.items():
        same = x.shape == after[name].shape and torch.equal(x, after[name])
        assert same, f"{doing} changes {name}"
    for name, value in modes().items():
        assert value == other[name], f"{doing} changes {name}"


def _state(value: nn.Module | Network | Tensor) -> Mapping[str, Tensor]:
    if isinstance(value, Tensor):
        return {"": value}
    return value.params if isinstance(value, Network) else value.state_dict()


def _tensors(groups: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, str, Tensor]]:
    """All tensors, with whose they are and their names."""
    for whose, tensors in groups.items():
        for name, x in tensors.items():
            yield whose, name, x


def _assert_close(found: Params, expected: Params, rtol: float, what: str) -> None:
    """Assert that parameters agree, or name the one that agrees least."""
    errors = {
        name: (found[name] - p).abs().max().item() / max(p.abs().max().item(), 1e-3)
        for name, p in expected.items()
        if p.numel()
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= rtol, f"parameter {worst!r} {what}: {errors[worst]:.3g} of its largest entry"


@torch.no_grad()
def _forgotten(case: Case) -> str:
    """Which of the model's tensors folding does not treat right: its logits answer differently when that one moves."""
    found: dict[str, float] = {}
    model, own = answers(case.model, case.inputs), case.logits
    for name, x in case.model.state_dict().items():
        if not x.is_floating_point():
            continue
        moved = case.model
        moved.state_dict()[name].mul_(1.001).add_(0.001)
        change, ours = answers(moved, case.inputs) - model, canonicalize(moved)(case.inputs) - own
        if change.abs().max() > case.allowed or ours.abs().max() > case.allowed:
            found[name] = (change - ours).norm().item() / max(change.norm().item(), 1e-300)
            if not ours.any():
                return f"{name!r} changes the model's logits, but has no part in the canonical form"
    if not found:
        return "no parameter moves the logits"
    return f"of all parameters {max(found, key=found.__getitem__)!r} changes them most differently"


def _repair(case: Case, site: str) -> str:
    """What would make a site exact: one axis of one parameter typed otherwise, or a smaller class."""
    spec, params = case.network.spec, case.network.params
    kind, size, batch = spec.sites[site].symmetry, spec.sizes[site], spec.batch(site)

    def exact(table: Spec, element: Symmetry) -> bool:
        try:
            return case.error(params | act_on_site(table, site, element, params)) <= case.allowed
        except (ValueError, IndexError, RuntimeError):  # the map does not fit
            return False

    element = kind.sample(size, torch.Generator().manual_seed(0), batch=batch)
    for name in spec.types:
        for edited in _edits(spec, name, site):
            try:
                table = replace(spec, types={**spec.types, name: edited})
            except ValueError:  # a site inside this one is named without it
                continue
            if exact(table, element):
                return f"; none would change if the type of {name!r} were {edited!r} instead of {spec.types[name]!r}"
    for smaller in sorted(_classes(), key=lambda kind: -LEVELS.index(kind.level)):
        if smaller is kind or not kind.includes(smaller) or smaller.obstacle(size, size):
            continue
        element = smaller.sample(size, torch.Generator().manual_seed(0), batch=batch)
        if not _still(element) and _invertible(element) and exact(spec, element):
            return f"; a {smaller.__name__} changes none"
    return f". It moves {', '.join(repr(touch.name) for touch in spec.touching(site))}"


def _edits(spec: Spec, name: str, site: str) -> Iterator[str]:
    """The types that differ from a parameter's at one axis in how it goes with a site."""
    axes = spec.axes(name)
    for i, axis in enumerate(axes):
        if axis.site == site:
            others = [Axis(site, not axis.dual), Axis(None)]
        elif axis.site is None and site not in spec.named(name):
            others = [Axis(site), Axis(site, True)]
        else:
            continue
        for other in others:
            yield " ".join(map(str, (*axes[:i], other, *axes[i + 1 :])))


def _classes(of: type[Symmetry] = Symmetry) -> list[type[Symmetry]]:
    """All classes of symmetry, also those that are defined outside of the package."""
    found = {kind: None for below in of.__subclasses__() for kind in (below, *_classes(below))}
    return [kind for kind in found if not inspect.isabstract(kind) and hasattr(kind, "level")]


def _invertible(element: Symmetry) -> bool:
    """Whether the dual is one: it is not in a class of mixtures."""
    matrix = element.matrix()
    return torch.allclose(element.left_inverse() @ matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype), atol=1e-6)


def _still(element: Symmetry) -> bool:
    matrix = element.matrix()
    return torch.equal(matrix, torch.eye(matrix.shape[-1]).to(matrix).expand_as(matrix))
