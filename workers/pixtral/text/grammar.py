"""A prompt's JSON Schema as what may follow each token of an answer.

llguidance compiles the schema to a grammar once; each answer then walks through it. Before a token is chosen, the
grammar says for every token of the vocabulary whether an answer that fits can still come of it, and the others are
taken from the logits (Willard and Louf 2023, "Efficient Guided Generation for Large Language Models",
arXiv:2307.09702). So whatever the weights are, what is read is the beginning of an answer that fits, and where nothing
may follow any more, it is whole.

The next mask is made when a token has been read, while a GPU computes the other sequences.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pipeline.errors import PageFailed
from pipeline.structured.check import grammar_of
from workers.pixtral.plan.sequence import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from numpy.typing import NDArray

T = TypeVar("T")

_KEPT = 64  # schemas whose grammar stays compiled


class Grammars:
    """The schemas that one tokenizer's answers are held to. Safe to call from many threads."""

    def __init__(self, tokenizer: MistralTokenizer[Any, Any, Any, Any, Any], vocab_size: int) -> None:
        """`vocab_size` is the model's, which may be more than the tokenizer knows: such tokens never follow."""
        self._tokenizer = tokenizer
        self._num_words = -(-vocab_size // 32)
        self._vocabulary = _Once(self._sorted)
        self._lock = threading.Lock()
        self._compiled = functools.lru_cache(_KEPT)(lambda schema: _Once(lambda: self._compile(schema)))

    def of(self, schema: str) -> Callable[[], Constraint]:
        """What begins a constraint for one answer after the other.

        The first call takes as long as the vocabulary needs to be sorted: a second for Pixtral's 131,072 tokens.

        Raises:
            PageFailed: the schema cannot be held to.
        """
        with self._lock:
            compiled = self._compiled(schema)
        matcher = compiled()  # who wants another schema does not wait for this one
        return lambda: _Walk(matcher.deep_copy(), self._num_words)

    def _compile(self, schema: str) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(self._vocabulary(), grammar_of(schema), log_level=0)
        except ValueError as error:
            raise _unheld(str(error)) from error
        if matcher.is_error():
            raise _unheld(matcher.get_error())
        return matcher

    def _sorted(self) -> LLTokenizer:
        from mistral_common.guidance.tokenizer import from_mistral_tokenizer

        return from_mistral_tokenizer(self._tokenizer)


class _Once(Generic[T]):
    """Made by the first that asks for it, while others who do wait; a failure is tried again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._lock = threading.Lock()

    def __call__(self) -> T:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


class _Walk:
    """One answer's way through a grammar: a `Constraint`."""

    def __init__(self, matcher: LLMatcher, num_words: int) -> None:
        self.mask: NDArray[np.int32] = np.zeros(num_words, np.int32)
        self._matcher = matcher
        self._fill()

    def advance(self, token: int) -> bool:
        """Raises PageFailed: the grammar grew beyond its limits."""
        if not self._matcher.consume_token(token):
            raise _unheld(self._matcher.get_error())
        if self._matcher.is_stopped():
            return True
        self._fill()
        return False

    def follow(self, tokens: Sequence[int]) -> None:
        """Raises PageFailed as `advance`."""
        for token in tokens:
            if not self._matcher.consume_token(token):
                raise _unheld(self._matcher.get_error())
        if not self._matcher.is_stopped():
            self._fill()

    def _fill(self) -> None:
        words = np.frombuffer(self._matcher.compute_bitmask(), np.int32)[: len(self.mask)]
        self.mask[: len(words)] = words
        if self._matcher.is_error():
            raise _unheld(self._matcher.get_error())


def _unheld(reason: str) -> PageFailed:
    return PageFailed(
        f"the answer could not be held to its JSON Schema: {' '.join(reason.split())[:300]}", cause="schema"
    )
