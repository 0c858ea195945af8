"""What a language model writes from a prompt, with the same random numbers for every network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from ..arguments import brief, count, instance, number
from ..data import encode, vocabulary
from ..networks.base import Network
from .evaluate import answer

LONGEST = 100_000  # tokens to write at most
TEMPERATURES = 1e-9, 1e9  # beyond them logits divided by it can no longer be told apart


@dataclass(frozen=True)
class Text:
    """What one network wrote; ``str(text)`` is the text with its prompt.

    Parameters
    ----------
    prompt
        What it was given.
    tokens
        The tokens it wrote, as pieces of text.
    probabilities
        What the network gave each of them, before the temperature; shape (tokens,).
    """

    prompt: str
    tokens: tuple[str, ...]
    probabilities: Tensor

    def __str__(self) -> str:
        return self.prompt + "".join(self.tokens)


@dataclass(frozen=True)
class Prompt:
    """A text to go on from: call it on a network to see what that network writes.

    Each token is drawn by the Gumbel trick: which of ``logits / temperature + noise`` is the largest has the
    probabilities of the softmax (arXiv 1611.01144, eq. 1). The noise depends on the seed and the place in the text
    alone, so two networks write different texts only where they answer differently.

    Parameters
    ----------
    text
        The beginning, at least one token.
    tokenizer
        Turns text into tokens; that of the data which the network was trained on.
    length
        Tokens to write, 100,000 at most.
    temperature
        Divides the logits: below 1 probable tokens are drawn more often, near 0 always the most probable one.
    seed
        Decides the noise.

    Raises
    ------
    TypeError
        If the text, the tokenizer or a number is something else.
    ValueError
        If the text has no token or none that the tokenizer knows, ``length`` is below 1, or ``temperature`` is not
        between 1e-9 and 1e9.
    """

    text: str
    tokenizer: Tokenizer
    length: int = 64
    temperature: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        instance("text", self.text, str)
        instance("tokenizer", self.tokenizer, Tokenizer, "a fast tokenizer of transformers has one, .backend_tokenizer")
        count("length", self.length, 1, LONGEST)
        number("temperature", self.temperature, *TEMPERATURES)
        count("seed", self.seed, -(2**63), 2**64 - 1)
        if not encode(self.tokenizer, [self.text])[0]:
            raise ValueError(f"the prompt {brief(self.text)} has no token: a network needs at least one to go on from")

    @torch.no_grad()
    def __call__(self, network: Callable[[Tensor], Any]) -> Text:
        """The text that a network writes.

        Parameters
        ----------
        network
            Anything that maps tokens (1, T) to logits (1, T, vocabulary), or to an object with ``.logits``. Beyond the
            context of a :class:`lmc_utils.Network` it sees the last tokens only.

        Raises
        ------
        TypeError
            If the network cannot be called, or answers no logits.
        ValueError
            If the network reads no tokens, does not know the largest number of a token, or answers NaN.
        """
        if not callable(network):
            raise TypeError(f"a prompt is written on by a network or a function, not by {brief(network)}")
        context = _context(network, self.tokenizer) if isinstance(network, Network) else None
        given = encode(self.tokenizer, [self.text])[0]
        generator = torch.Generator().manual_seed(self.seed)
        ids, tokens, probabilities = list(given), [], []
        stream = DecodeStream(ids=given, skip_special_tokens=False)  # some characters are made of several tokens
        for _ in range(self.length):
            window = torch.tensor([ids if context is None else ids[-context:]])
            logits = answer(network, window)
            if logits.ndim != 3:
                raise ValueError(f"a network must answer tokens with logits (1, T, vocabulary), not {brief(logits)}")
            logits = logits[0, -1].float().cpu()
            if not logits.max().isfinite():
                raise ValueError(f"the network answers NaN or infinity after {len(ids)} tokens: look at its weights")
            noise = -torch.empty_like(logits).exponential_(generator=generator).log()
            chosen = (logits / self.temperature + noise).argmax().item()
            ids.append(chosen)
            tokens.append(stream.step(self.tokenizer, chosen) or "")
            probabilities.append(logits.softmax(-1)[chosen])
        return Text(self.text, tuple(tokens), torch.stack(probabilities))


def _context(network: Network, tokenizer: Tokenizer) -> int:
    """The longest input of a network that knows all tokens of this tokenizer."""
    if network.architecture.reads is None:
        raise ValueError("a prompt needs a network that reads tokens, but the inputs of this one are no tokens")
    known, context = network.architecture.reads
    if (needed := vocabulary(tokenizer)) > known:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, but the network knows only the numbers below "
            f"{known}, not {needed - 1}: take its own"
        )
    return context
