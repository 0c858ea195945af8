"""What every architecture shares: a network in canonical form, and the door through which models come in."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce, wraps
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arguments import instance, number, reading
from ..spec import Alignment, Params, Spec

CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)  # they answer (samples, channels, ...)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 1e-2}

# Networks share skeletons, and running one swaps weights into it: one thread at a time. One lock serves all skeletons,
# because architectures may share one, too. It is the last to be taken, so it can wait for no other.
_skeletons = threading.RLock()


def _alone(method: Callable) -> Callable:
    """A method that only one thread at a time is in."""

    @wraps(method)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with _skeletons:
            return method(*args, **kwargs)

    return alone


class Architecture(ABC):
    """All of a network but its numbers. Two networks can be merged if their architectures are equal.

    Any number of threads may use networks of one architecture, also of one that is written elsewhere: of the methods
    below that run or copy a skeleton, one runs at a time.
    """

    spec: Spec
    module: nn.Module  # a skeleton of the stock module, whose parts the typed parameters are named after
    data: ClassVar[str]  # the shipped data that fits its inputs

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in {"forward", "activations", "to_model", "with_sizes"} & vars(cls).keys():
            setattr(cls, name, _alone(vars(cls)[name]))

    @_alone
    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled: never a skeleton that is running."""
        return copy.deepcopy(vars(self))

    @property
    def reads(self) -> tuple[int, int] | None:
        """Size of the vocabulary and longest context; None where inputs are no tokens."""
        return None

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the images that it reads; None where any or no image fits."""
        return None

    @abstractmethod
    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """Logits of the network with these parameters, shape (..., classes)."""

    @abstractmethod
    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        """For each site what its writers write (hidden units before the non-linearity), shape (samples, size)."""

    @_alone
    def outputs(self, params: Params, inputs: Tensor, parts: Iterable[str]) -> dict[str, Tensor]:
        """For each of these parts of the skeleton what it answers, (samples, size), in the order in which they run."""
        with capture() as seen:
            for name in parts:
                seen.output(self.module.get_submodule(name), name)
            self.forward(params, inputs)
            found = {name: seen[name] for name in seen}
        first = {name for name in found if isinstance(self.module.get_submodule(name), CHANNELS_FIRST)}
        return {name: (x.movedim(1, -1) if name in first else x).flatten(0, -2) for name, x in found.items()}

    @abstractmethod
    def to_model(self, params: Params) -> nn.Module:
        """An ordinary module, as it came in, that computes the same function."""

    @abstractmethod
    def with_sizes(self, sizes: Mapping[str, int]) -> Self:
        """The architecture of a wider network."""

    def probe(self) -> Tensor | None:
        """A few inputs to compare functions on, the same at every call; None if the architecture has none."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """What the canonical form decides in a saved configuration, where the stock module does not carry one."""
        return {}

    def resize(self, sizes: Mapping[str, int]) -> Self:
        """The same architecture with other sizes of its sites.

        Raises
        ------
        ValueError
            If no ordinary module has these sizes.
        """
        if sizes == self.spec.sizes:
            return self
        known = vars(self).setdefault("_resized", {})  # building a stock module takes longer than running it
        if (key := tuple(sizes.items())) not in known:
            known[key] = self.with_sizes(sizes)
        return known[key]


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode whose parameters have shapes but no storage: it is run on other weights."""
    hollow = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, hollow).eval()


class capture:
    """Look at what passes through parts of a skeleton while it runs.

    ``seen.output(part, key)`` and ``seen.input(part, key)`` ask for it, ``seen[key]`` gives it; nothing stays behind.
    """

    def __enter__(self) -> Self:
        self._found, self._hooks = {}, []
        return self

    def output(self, part: nn.Module, key: str) -> None:
        def keep(_: nn.Module, __: tuple, output: Tensor | tuple) -> None:
            # a copy, for what comes next may write into it, such as ReLU(inplace=True)
            self._found[key] = (output[0] if isinstance(output, tuple) else output).clone()

        self._hooks.append(part.register_forward_hook(keep))

    def input(self, part: nn.Module, key: str) -> None:
        self._hooks.append(part.register_forward_pre_hook(lambda _, inputs: self._found.update({key: inputs[0]})))

    def __getitem__(self, key: str) -> Tensor:
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def fill(module: nn.Module, params: Params) -> nn.Module:
    """A copy of a skeleton with these weights, in evaluation mode."""
    model = copy.deepcopy(module)
    model.load_state_dict({name: p.detach().clone() for name, p in params.items()}, assign=True)
    return model.requires_grad_(True).eval()


@dataclass(frozen=True)
class Network:
    """A network in canonical form: typed parameters and the architecture that runs them.

    Call it on inputs to get logits. It is immutable; ``g(network)`` and :func:`lmc_utils.merge` give new ones.

    Parameters
    ----------
    architecture
        Knows the table of types and how to run.
    params
        Name to tensor, as the table of types says.

    Raises
    ------
    ValueError
        If a parameter is missing, unknown, of the wrong shape, or not finite.
    """

    architecture: Architecture
    params: Params = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        instance("architecture", self.architecture, Architecture)
        self.spec.check(self.params)

    @property
    def spec(self) -> Spec:
        return self.architecture.spec

    @property
    def reference(self) -> Tensor:
        """One of the parameters, which tells dtype and device."""
        return next(iter(self.params.values()))

    def _cast(self, inputs: Tensor) -> Tensor:
        instance("inputs", inputs, Tensor)
        like = self.reference
        return inputs.to(like.device, like.dtype) if inputs.is_floating_point() else inputs.to(like.device)

    def __call__(self, inputs: Tensor) -> Tensor:
        with reading(inputs):
            return self.architecture.forward(self.params, self._cast(inputs))

    def activations(self, inputs: Tensor) -> dict[str, Tensor]:
        """For each site what its writers write, shape (samples, size)."""
        with reading(inputs):
            return self.architecture.activations(self.params, self._cast(inputs))

    def outputs(self, inputs: Tensor, parts: Iterable[str]) -> dict[str, Tensor]:
        """For each of these parts of the stock module what it answers: see :meth:`Architecture.outputs`."""
        with reading(inputs):
            return self.architecture.outputs(self.params, self._cast(inputs), parts)

    def to(self, *args: torch.dtype | torch.device | str) -> Network:
        """The same network in another dtype or on another device."""
        return replace(self, params={name: p.to(*args) for name, p in self.params.items()})

    def to_model(self) -> nn.Module:
        """An ordinary module, of the kind that came in, with these weights."""
        return self.architecture.to_model(self.params)


def check_networks(**networks: Network) -> None:
    """Raise a TypeError that names the argument if one is no network in canonical form."""
    for name, network in networks.items():
        instance(name, network, Network, "lmc.canonicalize(model) makes one of a model")


def check_same_architecture(*networks: Network) -> None:
    """Raise a ValueError that names the first difference if the networks cannot be merged."""
    for network in networks:
        if not isinstance(network, Network):
            raise TypeError(f"a Network is needed, not a {type(network).__name__}: canonicalize the model first")
    first = networks[0]
    for other in networks[1:]:
        if other.architecture != first.architecture:
            raise ValueError(
                f"networks of different architectures cannot be merged or matched: {_difference(first, other)}"
            )


def _difference(a: Network, b: Network) -> str:
    """The first thing in which two architectures differ, with both values, in one short line."""
    kinds = [type(network.architecture).__name__ for network in (a, b)]
    if kinds[0] != kinds[1]:
        return "one is {}, the other {}".format(*kinds)
    for name in a.params | b.params:
        shapes = [tuple(n.params[name].shape) if name in n.params else "absent" for n in (a, b)]
        if shapes[0] != shapes[1]:
            return "{} has shape {} and {}".format(name, *shapes)
    if different := a.spec.difference(b.spec):
        return different
    for part in fields(a.architecture):
        x, y = (getattr(network.architecture, part.name) for network in (a, b))
        if part.compare and x != y:
            return f"{part.name}{_entry(x, y)}"
    return "their configurations differ"


def _entry(x: Any, y: Any) -> str:
    """Where two values differ, down to the first entry: ``['n_head'] is 4 and 8``."""
    if isinstance(x, tuple | list) and isinstance(y, tuple | list):
        x, y = dict(enumerate(x)), dict(enumerate(y))
    if isinstance(x, dict) and isinstance(y, dict):
        for key in x | y:
            if key not in x or key not in y:
                return f" has {key!r} in one only"
            if x[key] != y[key]:
                return f"[{key!r}]{_entry(x[key], y[key])}"
    return f" is {x!r:.80} and {y!r:.80}"


def widening(a: Network, b: Network, allow: str = "invertible") -> Alignment:
    """The plainest map from b's sites into a's: the identity where sizes agree, zero padding where a's are wider.

    Raises
    ------
    ValueError
        If a site of b is wider than a's, or the architectures differ in more than their sizes.
    """
    check_same_architecture(a), check_same_architecture(b)
    if a.spec.types != b.spec.types or list(a.spec.sites) != list(b.spec.sites):
        check_same_architecture(a, b)
    for name, size in b.spec.sizes.items():
        if size > (ours := a.spec.sizes[name]):
            raise ValueError(
                f"only a narrower network can be mapped into a wider one, but site {name!r} has {ours} in a, "
                f"{size} in b: give the wider first"
            )
    g = b.spec.widen(a.spec.sizes, allow)
    check_same_architecture(a, b if a.spec.sizes == b.spec.sizes else g(b))
    return g


def in_full(*networks: Network) -> list[Network]:
    """The networks in one dtype, of at least float32, and on one device: so they are matched.

    Half types round what is compared too much, and are slow. Weights are checked anew: they may have been written to
    since the network was made.

    Raises
    ------
    TypeError
        If one is no network.
    ValueError
        If a weight is not finite.
    """
    for network in networks:
        check_same_architecture(network)
    dtype = reduce(torch.promote_types, (network.reference.dtype for network in networks), torch.float32)
    return [network.to(networks[0].reference.device, dtype) for network in networks]


_HANDLERS: dict[str, Callable[[nn.Module], Network]] = {}


def register(*classes: str) -> Callable:
    """Decorate the function that brings models of these classes (by qualified name) into canonical form.

    By name, so that a library is imported only by those who use its models.
    """

    def decorate(handler: Callable[[nn.Module], Network]) -> Callable[[nn.Module], Network]:
        _HANDLERS.update(dict.fromkeys(classes, handler))
        return handler

    return decorate


def registered(library: str) -> list[str]:
    """The qualified names of the known classes of one library."""
    return [name for name in _HANDLERS if name.startswith(f"{library}.")]


@dataclass(frozen=True)
class Builder:
    """Makes fresh models of one architecture: ``builder(**config)``."""

    build: Callable[..., nn.Module]
    text: Callable[[dict, int], dict] | None
    images: Callable[[dict, tuple[int, int, int], int], dict] | None
    context: str

    def __call__(self, **config: Any) -> nn.Module:
        return self.build(**config)


#: By the names that checkpoints and the command line use.
BUILDERS: dict[str, Builder] = {}


def builds(
    name: str,
    *,
    text: Callable[[dict, int], dict] | None = None,
    images: Callable[[dict, tuple[int, int, int], int], dict] | None = None,
    context: str = "max_position_embeddings",
) -> Callable:
    """Decorate the function that builds fresh models of an architecture from plain arguments.

    Parameters
    ----------
    name
        What checkpoints call it.
    text, images
        One of them: complete a configuration for data, given the size of the vocabulary, or the shape (channels,
        height, width) of an image and the number of classes.
    context
        What a configuration for text calls the longest context.
    """

    def decorate(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        BUILDERS[name] = Builder(build, text, images, context)
        return build

    return decorate


WATCHERS = "transformers.utils.output_capturing"  # hooks that only look; a model keeps them when it was asked once


#: What wraps a model, by qualified name, and what to pass instead.
WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "model.module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "model.module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "a plain model with all weights",
    "torch.optim.swa_utils.AveragedModel": "model.module",
    "torch._dynamo.eval_frame.OptimizedModule": "model._orig_mod",
    "torch.jit._script.ScriptModule": "the model that was scripted or traced",
    "torch.fx.graph_module.GraphModule": "the model that was traced",
    "peft.peft_model.PeftModel": "model.merge_and_unload()",
    "peft.mixed_model.PeftMixedModel": "model.merge_and_unload()",
}


def _refuse_wrapped(model: nn.Module) -> None:
    """Raise a TypeError with what to pass instead if a model is wrapped, adapted, quantised or without numbers."""
    for name, part in model.named_modules():
        for kind in (f"{cls.__module__}.{cls.__qualname__}" for cls in type(part).__mro__):
            inside = WRAPPERS.get(kind)
            if inside is None and kind.startswith("peft."):  # adapters inside of a stock model
                inside = "the model with its adapters merged (merge_and_unload)"
            if inside is not None:
                where = f"{kind.rpartition('.')[2]} at {name!r}" if name else kind.rpartition(".")[2]
                raise TypeError(f"the model is wrapped ({where}): pass {inside}")
    trained = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if getattr(tensor, "is_meta", False):
            raise TypeError(f"parameter {name!r} has a shape, but no numbers (device meta): load its weights first")
        plain = type(tensor) in (Tensor, nn.Parameter)
        if not plain or (name in trained and tensor.dtype not in TOLERANCE):
            found = tensor.dtype if plain else type(tensor).__name__
            raise TypeError(
                f"parameter {name!r} is a {found}: pass the model as it was before it was quantised or split"
            )


def canonicalize(model: nn.Module) -> Network:
    """Rewrite a model, exactly, so that all its symmetries are plain. The model is read, never changed.

    Parameters
    ----------
    model
        A plain torch, timm or transformers module of a known architecture.

    Returns
    -------
    Network
        With the same logits.

    Raises
    ------
    TypeError
        If no file in ``lmc_utils/networks`` knows the model's own class (a subclass may compute something else), or it
        is wrapped, quantised or without numbers: the message says what to pass instead.
    ValueError
        If the model has a part that its file does not know, a hook or a ``forward`` of its own, or weights that are
        not finite.

    Examples
    --------
    >>> import torch
    >>> import lmc_utils as lmc
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> list(lmc.canonicalize(model).spec.sites)
    ['ff.0']
    """
    instance("model", model, nn.Module)
    _refuse_wrapped(model)
    kind = type(model)
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in kind.__mro__]
    if names[0] not in _HANDLERS:
        parent = next((name for name in names if name in _HANDLERS), None)
        why = f", a subclass of {parent} that may compute something else" if parent else ""
        raise TypeError(
            f"no canonical form is known for {kind.__name__}{why}; known are {sorted(_HANDLERS)}. "
            "A new architecture is one new file in lmc_utils/networks."
        )
    for name, part in model.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if "forward" in vars(part) or any(getattr(hook, "__module__", None) != WATCHERS for hook in hooks):
            raise ValueError(
                f"{name or 'the model'} has a hook or a forward of its own: the class does not tell what it computes"
            )
    for name, tensor in model.state_dict().items():
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise ValueError(f"parameter {name!r} of shape {tuple(tensor.shape)} has {bad} NaN or infinite entries")
    return _HANDLERS[names[0]](model)


def computed(output: Tensor | Mapping[str, Any]) -> Tensor:
    """What a stock module gave, as one tensor: its logits, or where it has none all that it gave, (samples, n, width).

    So an encoder's last hidden states come with what it pools as one more position: both are its function.
    """
    if isinstance(output, Tensor):
        return output
    if "logits" in output:
        return output["logits"]
    parts = [part for part in output.values() if isinstance(part, Tensor)]
    return torch.cat([part.reshape(len(part), -1, part.shape[-1]) for part in parts], 1)


def check_same_parts(model: nn.Module, stock: nn.Module) -> None:
    """Raise a ValueError that names the first part of a model whose class is not the stock module's."""
    parts = dict(stock.named_modules())
    for name, part in model.named_modules():
        known = type(parts.get(name))
        if type(part) is not known:
            raise ValueError(f"{name!r} is a {type(part).__name__}, where the stock module has a {known.__name__}")


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits of a model in evaluation mode; the model is left as it is."""
    return computed(functional_call(skeleton(model), dict(model.named_parameters()), (inputs,)))


@torch.no_grad()
def assert_canonical(network: Network, model: nn.Module, inputs: Tensor, atol: float | None = None) -> None:
    """Assert that a network in canonical form computes what the original model does in evaluation mode.

    Parameters
    ----------
    network
        What :func:`canonicalize` made of the model.
    model
        The original. It is left as it is.
    inputs
        The functions are compared on these.
    atol
        Largest difference of a logit allowed; by default 1e-10 in float64, 1e-4 in float32, 1e-2 in float16 and 0.1 in
        bfloat16, times the largest logit if that is above 1.

    Raises
    ------
    AssertionError
        With the largest difference of a logit.

    Examples
    --------
    >>> model = lmc.load_endpoint("mlp")
    >>> lmc.assert_canonical(lmc.canonicalize(model), model, torch.ones(2, 1, 28, 28))
    """
    __tracebackhide__ = True
    instance("network", network, Network)
    instance("model", model, nn.Module)
    with reading(inputs):
        given = answers(model, network._cast(inputs))
    own = network(inputs)
    if given.shape != own.shape:
        raise AssertionError(f"not this model's canonical form: logits of shape {own.shape}, not {given.shape}")
    error = _largest(own - given)
    if atol is None:
        atol = TOLERANCE[network.reference.dtype] * max(1.0, _largest(given))
    number("atol", atol, 0)
    if not error <= atol:  # written so that NaN fails
        raise AssertionError(f"not this model's canonical form: a logit differs by {error:.3g}, allowed is {atol:.3g}")


def _largest(difference: Tensor) -> float:
    if not difference.numel():
        raise ValueError(f"inputs must hold at least one sample: the logits have the shape {tuple(difference.shape)}")
    return difference.abs().max().item()


@torch.no_grad()
def rounding(forward: Callable[[Params], Tensor], params: Params) -> float:
    """Measure the rounding errors in what a network computes: a stock norm may round to float32 inside of float64.

    Weights are moved along a line in relative steps of 1e-7. There the third difference of a smooth function vanishes,
    so what is left of it is rounding. Of three lines the smoothest counts: one may cross the kink of a ReLU.

    Parameters
    ----------
    forward
        Takes parameters to logits.
    params
        The weights, of float64.

    Returns
    -------
    float
        The typical error of the logit that has the largest one.

    Examples
    --------
    >>> rounding(lambda p: p["w"] ** 2, {"w": torch.ones(9, dtype=torch.float64)}) < 1e-15
    True
    """
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(3):
        line = {name: p * torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}
        at = [forward({name: p + 1e-7 * k * line[name] for name, p in params.items()}) for k in range(4)]
        found.append(_largest(at[3] - 3 * at[2] + 3 * at[1] - at[0]) / 20**0.5)
    return min(found)


@torch.no_grad()
def invariance_error(network: Network, alignment: Alignment, inputs: Tensor) -> float:
    """The largest change of a logit on ``inputs`` when the alignment moves the network's weights.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> network = lmc.canonicalize(lmc.load_endpoint("adder").double())
    >>> bool(lmc.invariance_error(network, network.spec.sample(0), lmc.load_data("sums").test.inputs) < 1e-10)
    True
    """
    instance("network", network, Network)
    instance("alignment", alignment, Alignment)
    return _largest(alignment(network)(inputs) - network(inputs))


def assert_invariant(network: Network, alignment: Alignment, inputs: Tensor, atol: float | None = None) -> None:
    """Assert that the alignment is a symmetry: it moves the weights and leaves the function alone.

    Parameters
    ----------
    network, alignment, inputs
        The function is compared on these inputs.
    atol
        Largest change of a logit allowed; by default 1e-10 in float64, 1e-4 in float32, 1e-2 in float16 and 0.1 in
        bfloat16.

    Raises
    ------
    AssertionError
        With the largest change of a logit.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> network = lmc.canonicalize(lmc.load_endpoint("adder").double())
    >>> lmc.assert_invariant(network, network.spec.sample(0), lmc.load_data("sums").test.inputs)
    """
    __tracebackhide__ = True
    error = invariance_error(network, alignment, inputs)
    atol = TOLERANCE[network.reference.dtype] if atol is None else number("atol", atol, 0)
    if not error <= atol:  # written so that NaN fails
        raise AssertionError(f"not a symmetry of this network: a logit changes by {error:.3g}, allowed is {atol:.3g}")
