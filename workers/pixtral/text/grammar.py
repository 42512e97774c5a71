"""A prompt's JSON Schema as what may follow each token of an answer.

llguidance compiles the schema to a grammar once; each answer then walks through it. Before a token is chosen, the
grammar says for every token of the vocabulary whether an answer that fits can still come of it, and the others are
taken from the logits (Willard and Louf 2023, "Efficient Guided Generation for Large Language Models",
arXiv:2307.09702). So whatever the weights are, what is read is the beginning of an answer that fits, and where nothing
may follow any more, it is whole.

The next mask is made when a token has been read, while a GPU computes the other sequences.

A draft is tried along the grammar, too. Of the text that the page is known to have only what may follow is tried, and
where nothing else may, keys and punctuation are known beforehand:

    answer so far   {"number": "R-17        the page's text   R-17 , of 1 March
    tried           ", "date": "            quotation marks end what the draft has of this field, if the model agrees

A copy of the grammar's state goes ahead; what is read decides where the state itself goes.
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
        return lambda: _Walk(matcher.deep_copy(), self._num_words, self._vocabulary().tokenize_bytes)

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

    def __init__(self, matcher: LLMatcher, num_words: int, tokenize: Callable[[bytes], list[int]]) -> None:
        self.mask: NDArray[np.int32] = np.zeros(num_words, np.int32)
        self._matcher, self._tokenize = matcher, tokenize
        self._masks: list[tuple[int, NDArray[np.int32]]] = []  # that stand after each token of a draft, if it holds
        self._fill()

    def ahead(self, draft: Sequence[int], most: int) -> list[int]:
        scout, tokens, place = self._matcher.deep_copy(), list[int](), 0
        while len(tokens) < most and not scout.is_stopped():
            forced = (scout.compute_ff_tokens() or self._tokenize(scout.compute_ff_bytes()))[: most - len(tokens)]
            forced = forced[: scout.try_consume_tokens(forced)]
            place += len(forced) if list(draft[place : place + len(forced)]) == forced else 0
            room = most - len(tokens) - len(forced)
            fitting = draft[place : place + room]
            fitting = fitting[: scout.try_consume_tokens(list(fitting))]
            place += len(fitting)
            if not forced and not fitting:
                break
            tokens += [*forced, *fitting]
        return tokens[:-1] if scout.is_stopped() else tokens  # after the last nothing is asked

    def masks(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        """Where the grammar grew beyond its limits, nothing may follow: so the draft is not taken there."""
        found = np.zeros((1 + len(tokens), len(self.mask)), np.int32)
        found[0] = self.mask
        self._masks, scout = [], self._matcher.deep_copy()
        for token, mask in zip(tokens, found[1:], strict=True):
            if not scout.consume_token(token) or not _fill(mask, scout):
                break
            self._masks.append((token, mask))
        return found

    def advance(self, token: int) -> bool:
        """Raises PageFailed: the grammar grew beyond its limits."""
        if not self._matcher.consume_token(token):
            raise _unheld(self._matcher.get_error())
        if self._matcher.is_stopped():
            return True
        drafted, mask = self._masks.pop(0) if self._masks else (None, self.mask)
        if drafted == token:
            self.mask = mask
        else:
            self._masks = []
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
        self.mask = np.zeros_like(self.mask)  # the last one may be a row of a draft's
        if not _fill(self.mask, self._matcher):
            raise _unheld(self._matcher.get_error())


def _fill(mask: NDArray[np.int32], matcher: LLMatcher) -> bool:
    """Whether it could be: there is no mask where the grammar grew beyond its limits."""
    words = np.frombuffer(matcher.compute_bitmask(), np.int32)[: len(mask)]
    mask[: len(words)] = words
    return not matcher.is_error()


def _unheld(reason: str) -> PageFailed:
    return PageFailed(
        f"the answer could not be held to its JSON Schema: {' '.join(reason.split())[:300]}", cause="schema"
    )
