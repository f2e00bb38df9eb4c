"""Which tokens a constrained answer may go on with: llguidance over the bundle's tokenizer.

A constraint becomes a grammar over bytes, and each token is a string of bytes that the grammar takes or not. So a
token may end inside a character, and no answer depends on how the tokenizer would have cut it.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import ConstraintError
from neo_edge.extras import require
from neo_edge.shown import shown
from neo_edge_runtime.constraints import Choices, JsonSchema, Regex

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import numpy.typing as npt
    from llguidance import LLMatcher, LLTokenizer

    from neo_edge.tokenizer import Tokenizer
    from neo_edge_runtime.constraints import Constraint


class TokenMatcher:
    """Follows one answer, token by token."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> npt.NDArray[np.int64]:
        """Ids that may come now, in rising order; ends of text among them where the answer is complete.

        Raises:
            ConstraintError: the library gave the answer up, because the grammar grew beyond its limits.
        """
        ids = _next_ids(self._matcher, self._vocab_size)
        if self._matcher.is_error() or not len(ids):
            raise ConstraintError(
                f"the answer cannot go on within its constraint ({_reason(self._matcher) or 'no token fits'}): "
                "pass a simpler constraint"
            )
        return ids

    def push(self, token: int) -> None:
        """Takes a token that `allowed` gave and that ends no text."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the answer satisfies its constraint as it stands."""
        return self._matcher.is_accepting()

    @property
    def closed(self) -> bool:
        """Whether it does and nothing may follow."""
        return self._matcher.is_stopped() and self._matcher.is_accepting()


@dataclass(frozen=True)
class CompiledConstraint:
    """A constraint that was understood, for any number of answers."""

    unused: LLMatcher  # copied, never fed
    vocab_size: int

    def start(self) -> TokenMatcher:
        """Stands before the first token."""
        return TokenMatcher(self.unused.deep_copy(), self.vocab_size)


class ConstraintCompiler:
    """Turns constraints into grammars over one model's tokens. For any thread."""

    def __init__(self, tokenizer: Tokenizer | None, *, ends: Sequence[int], vocab_size: int) -> None:
        """Looks at nothing yet: the index of the vocabulary is made for the first constraint, once.

        Args:
            tokenizer: the bundle's; without one nothing can be compiled.
            ends: ids that end an answer.
            vocab_size: V, columns of the logits; ids beyond are never allowed.
        """
        self._tokenizer, self._ends, self._vocab_size = tokenizer, ends, vocab_size
        self._lock = threading.Lock()
        self._index: LLTokenizer | None = None

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Checks a constraint against the library.

        Raises:
            ConstraintError: it is none, the library does not take it, no answer satisfies it, or the bundle has no
                tokenizer or no token that ends an answer.
            MissingExtraError: llguidance is not installed.
        """
        library = require("llguidance", extra="constrain")
        grammar = _grammar(constraint, library)
        kind = _NAMES[type(constraint)]
        matcher = library.LLMatcher(self._vocabulary(library), grammar, log_level=0)
        tried = matcher.deep_copy()
        ids = _next_ids(tried, self._vocab_size)
        if not tried.is_error() and len(ids):
            return CompiledConstraint(matcher, self._vocab_size)
        reason = _reason(tried)
        if reason.startswith(_DEAD_END):
            raise ConstraintError(f"no answer satisfies {kind}: correct it")
        raise ConstraintError(f"{kind} cannot be held to ({reason}): correct or simplify it")

    def _vocabulary(self, library: ModuleType) -> LLTokenizer:
        if self._tokenizer is None:
            raise ConstraintError(
                "a constraint needs a tokenizer, and the bundle has none: leave it out, or export a checkpoint that "
                "holds tokenizer.json"
            )
        if not self._ends:
            raise ConstraintError("the model has no token that ends an answer: leave the constraint out")
        with self._lock:
            if self._index is None:
                words = library.TokenizerWrapper(_Words(self._tokenizer, self._ends, self._vocab_size))
                # Its slices quicken no mask that was measured, and nearly double the time until the first.
                self._index = library.LLTokenizer(words, eos_token=list(self._ends), slices=[])
            index = self._index
        assert index is not None
        return index


class _Words:
    """A tokenizer as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokenizer.token_bytes(vocab_size)
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted(
            index for index in tokenizer.control_ids.union(ends) if index < vocab_size
        )

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)


_DEAD_END = "NoExtension"  # llguidance's words for: nothing may follow, and the answer is not complete
_NAMES = {Choices: "the choices", JsonSchema: "the schema", Regex: "the pattern"}


def _grammar(constraint: Constraint, library: ModuleType) -> str:
    write: type[LLMatcher] = library.LLMatcher
    if isinstance(constraint, Choices):
        return write.grammar_from_lark(_choice_grammar(constraint))
    if isinstance(constraint, JsonSchema):
        return write.grammar_from_json_schema(
            constraint.text,
            # As `json.dumps` writes it; with free white space a model can go on with spaces for ever.
            overrides={"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False},
        )
    if isinstance(constraint, Regex):
        return write.grammar_from_regex(constraint.pattern)
    raise ConstraintError(
        f"a constraint is {shown(constraint)}; pass Choices, JsonSchema or Regex of neo_edge"
    )


def _choice_grammar(choices: Choices) -> str:
    choice = " | ".join(json.dumps(option) for option in choices.options)
    if choices.after is None:
        return f"start: {choice}"
    # `suffix` makes the rule end where these words come first.
    return f"start: before ({choice})\nbefore[suffix={json.dumps(choices.after)}]: /(?s:.*)/"


def _next_ids(matcher: LLMatcher, vocab_size: int) -> npt.NDArray[np.int64]:
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.flatnonzero(np.unpackbits(bits, count=vocab_size, bitorder="little"))


def _reason(matcher: LLMatcher) -> str:
    """What the library says, on one line, without its inner state."""
    return " ".join(matcher.get_error().partition("<state>")[0].split())[:300]
