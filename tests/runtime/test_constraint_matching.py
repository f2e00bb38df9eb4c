"""Which tokens a constraint allows, with the small checkpoint's tokenizer and with a byte-level one as Qwen's."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from constraint_cases import WORDS, is_of, random_schemas
from tiny_tokenizer import write_tokenizer_json

from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.errors import ConstraintError, MissingExtraError
from neo_edge.tokenizer import Tokenizer, load_tokenizer
from neo_edge_runtime import Choices, JsonSchema, Regex
from neo_edge_runtime.constraint_matching import ConstraintCompiler, TokenMatcher
from neo_edge_runtime.constraints import Constraint


@pytest.fixture(scope="module", params=["nano", "like Qwen's"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "nano":
        directory = Path(resolve_checkpoint("neo-ov-nano"))
    else:
        directory = write_tokenizer_json(tmp_path_factory.mktemp("tokenizer"))
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def ends(vocabulary: Tokenizer) -> tuple[int, ...]:
    return vocabulary.special_id("<|im_end|>"), vocabulary.special_id("<|endoftext|>")


@pytest.fixture(scope="module")
def compiler(vocabulary: Tokenizer, ends: tuple[int, ...]) -> ConstraintCompiler:
    # Rows behind the vocabulary, as checkpoints have them.
    return ConstraintCompiler(vocabulary, ends=ends, vocab_size=vocabulary.vocab_size + 50)


def walk(matcher: TokenMatcher, ends: tuple[int, ...], rng: random.Random, most: int = 3000) -> list[int]:
    """Tokens of a model that takes any allowed one, until it says that it ends or nothing may follow."""
    tokens: list[int] = []
    while not matcher.closed and len(tokens) < most:
        token = rng.choice(matcher.allowed().tolist())
        if token in ends:
            break
        tokens.append(token)
        matcher.push(token)
    return tokens


def test_each_mask_is_what_the_choices_spell(
    compiler: ConstraintCompiler, vocabulary: Tokenizer, ends: tuple[int, ...]
) -> None:
    choices = [
        "red",
        "red ball",
        "redder",
        "größer",
        "größe",
        "红色",
        "🤖",
        "he",
        " ball",
        'a"\\\n\t\x01/b',
        "<img>",
    ]
    compiled = compiler.compile(Choices(choices))
    spelled = [choice.encode() for choice in choices]
    words = vocabulary.token_bytes(vocabulary.vocab_size + 50)
    seen = set()
    for seed in range(80):
        matcher, text, rng = compiled.start(), b"", random.Random(seed)
        while not matcher.closed:
            allowed = set(matcher.allowed().tolist())
            assert matcher.complete == (text in spelled)
            rests = [choice[len(text) :] for choice in spelled if choice.startswith(text)]
            spelling = {
                token
                for token, word in enumerate(words)
                if word
                and token not in vocabulary.control_ids
                and any(rest.startswith(word) for rest in rests)
            } | (set(ends) if text in spelled else set())
            # Where all go on in the same way, the library takes the tokens that the tokenizer would.
            forced = b"" not in rests and len({rest[:1] for rest in rests}) == 1
            assert allowed <= spelling if forced else allowed == spelling
            token = rng.choice(sorted(allowed))
            if token in ends:
                break
            matcher.push(token)
            text += words[token]
        assert text in spelled
        seen.add(text)
    assert len(seen) == len(choices)


def test_fifty_random_schemas_are_kept_to(
    compiler: ConstraintCompiler, vocabulary: Tokenizer, ends: tuple[int, ...]
) -> None:
    for number, schema in enumerate(random_schemas(50)):
        tokens = walk(compiler.compile(JsonSchema(schema)).start(), ends, random.Random(number))
        text = vocabulary.decode(tokens)
        value = json.loads(text)
        assert is_of(schema, value), (schema, text)
        assert "\n" not in text


def test_a_pattern_matches_the_whole_answer(
    compiler: ConstraintCompiler, vocabulary: Tokenizer, ends: tuple[int, ...]
) -> None:
    for seed, pattern in enumerate(
        [r"[0-9]{1,4}(\.[0-9])?", "(ja|nein), größer", r"\p{Han}{3}", "a*", "", "x?y?"]
    ):
        tokens = walk(compiler.compile(Regex(pattern)).start(), ends, random.Random(seed))
        checked = pattern.replace(r"\p{Han}", "[\u2e80-\U000323af]")
        assert re.fullmatch(checked, vocabulary.decode(tokens)) is not None


def test_no_control_token_is_ever_allowed_and_text_that_looks_like_one_is_spelled(
    compiler: ConstraintCompiler, vocabulary: Tokenizer, ends: tuple[int, ...]
) -> None:
    never = vocabulary.control_ids - set(ends)
    assert {
        vocabulary.special_id(token) for token in ("<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>")
    } <= never
    matcher = compiler.compile(Regex("(?s:.*)")).start()
    rng = random.Random(1)
    for _ in range(100):
        allowed = matcher.allowed()
        assert never.isdisjoint(allowed.tolist())
        assert allowed.max() < vocabulary.vocab_size
        matcher.push(rng.choice([token for token in allowed.tolist() if token not in ends]))
    tokens = walk(compiler.compile(Choices(["<|im_start|><img>"])).start(), ends, rng)
    assert vocabulary.decode(tokens) == "<|im_start|><img>"
    assert len(tokens) > 2


def test_markup_that_the_tokenizer_calls_text_is_one_token() -> None:
    nano = load_tokenizer(resolve_checkpoint("neo-ov-nano"))
    assert nano is not None
    ends = (nano.special_id("<|im_end|>"),)
    compiler = ConstraintCompiler(nano, ends=ends, vocab_size=nano.vocab_size)
    assert nano.special_id("<ref>") in compiler.compile(Regex("<ref>[a-z]+</ref>")).start().allowed()


def test_words_before_a_choice_are_free_until_they_end_in_after(
    compiler: ConstraintCompiler, vocabulary: Tokenizer
) -> None:
    for after in ("Answer: ", 'So/[x]"\n', "größer "):
        compiled = compiler.compile(Choices(["red", "red ball"], after=after))
        for text, complete, closed in (
            ("I see ", False, False),
            (f"I see {after}", False, False),
            (f"I see {after}red", True, False),
            (f"{after[:2]}{after}red ball", True, True),
        ):
            matcher = compiled.start()
            for token in vocabulary.encode(text):
                assert token in matcher.allowed()
                matcher.push(token)
            assert (matcher.complete, matcher.closed) == (complete, closed)
        matcher = compiled.start()
        for token in vocabulary.encode(f"It is {after}"):
            matcher.push(token)
        assert vocabulary.encode("blue")[0] not in matcher.allowed()


def test_answers_of_one_constraint_do_not_touch_each_other(
    compiler: ConstraintCompiler, vocabulary: Tokenizer
) -> None:
    compiled = compiler.compile(Choices(["ab", "cd"]))
    first, second = compiled.start(), compiled.start()
    first.push(vocabulary.encode("a")[0])
    assert vocabulary.encode("c")[0] in second.allowed()
    assert vocabulary.encode("c")[0] not in first.allowed()


def test_threads_share_a_compiler_and_what_it_compiled(vocabulary: Tokenizer, ends: tuple[int, ...]) -> None:
    compiler = ConstraintCompiler(vocabulary, ends=ends, vocab_size=vocabulary.vocab_size)
    shared = [(schema, compiler.compile(JsonSchema(schema))) for schema in random_schemas(4)]
    fresh = ConstraintCompiler(vocabulary, ends=ends, vocab_size=vocabulary.vocab_size)

    def work(number: int) -> list[bool]:
        own = fresh.compile(Choices([f"choice {number}"]))  # all of them ask for the index at once
        kept = [vocabulary.decode(walk(own.start(), ends, random.Random(number))) == f"choice {number}"]
        for schema, compiled in shared * 3:
            text = vocabulary.decode(walk(compiled.start(), ends, random.Random(number)))
            kept.append(is_of(schema, json.loads(text)))
        return kept

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(6)))
    assert results == [[True] * 13] * 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choices([]), "there are no choices: pass at least one"),
        (lambda: Choices("left"), r"choices are 'left'; pass a list of texts"),
        (lambda: Choices(3), r"choices are 3; pass a list of texts"),  # type: ignore[arg-type]
        (lambda: Choices(["a", ""]), "a choice is ''; it must be Unicode text that is not empty"),
        (lambda: Choices(["a", 3]), "a choice is 3; it must be Unicode text"),  # type: ignore[list-item]
        (lambda: Choices(["\ud800"]), r"a choice is '\\ud800'; it must be Unicode text"),
        (lambda: Choices(["a", "b", "a"]), "the choice 'a' is there twice: leave one out"),
        (lambda: Choices(["a"], after=""), "after is ''; it must be Unicode text that is not empty, or None"),
        (lambda: JsonSchema("{}"), r"a schema is '\{\}'; pass an object"),  # type: ignore[arg-type]
        (lambda: JsonSchema({"const": {1, 2}}), "a schema must be JSON values only"),
        (lambda: JsonSchema({"const": float("nan")}), "a schema must be JSON values only"),
        (lambda: JsonSchema({"const": "\udc00"}), "a schema holds half of a surrogate pair"),
        (lambda: Regex(3), "a pattern is 3; it must be Unicode text"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_no_constraint_is_refused_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        make()


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Regex("("), r"the pattern cannot be held to \(.*unclosed group.*\): correct or simplify it"),
        (Regex("a(?=b)"), "the pattern cannot be held to .*look-around"),
        (Regex(r"(a)\1"), "the pattern cannot be held to .*backreferences are not supported"),
        (Regex(r"[^\s\S]"), "no answer satisfies the pattern: correct it"),
        (JsonSchema({"type": "strin"}), "the schema cannot be held to .*Invalid type: strin"),
        (JsonSchema({"not": {"type": "null"}}), 'the schema cannot be held to .*Unimplemented keys: \\["not"\\]'),
        (JsonSchema({"type": "integer", "minimum": 5, "maximum": 3}), "the schema cannot be held to .*greater than"),
        (JsonSchema({"enum": []}), "the schema cannot be held to .*Unsatisfiable"),
        (JsonSchema({"$ref": "https://example.com/schema.json"}), "the schema cannot be held to .*not present"),
        (JsonSchema({"type": "string", "pattern": "("}), "the schema cannot be held to .*regex parse error"),
        ("left", "a constraint is 'left'; pass Choices, JsonSchema or Regex of neo_edge"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_to_is_refused_with_the_librarys_words(
    compiler: ConstraintCompiler, constraint: Constraint, message: str
) -> None:
    with pytest.raises(ConstraintError, match=message) as error:
        compiler.compile(constraint)
    assert "\n" not in str(error.value)


def test_a_constraint_needs_a_tokenizer_an_end_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    nano = load_tokenizer(resolve_checkpoint("neo-ov-nano"))
    constraint = Choices(["a"])
    with pytest.raises(ConstraintError, match="needs a tokenizer, and the bundle has none"):
        ConstraintCompiler(None, ends=(1,), vocab_size=9).compile(constraint)
    with pytest.raises(ConstraintError, match="no token that ends an answer"):
        ConstraintCompiler(nano, ends=(), vocab_size=9).compile(constraint)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r'pip install "neo-edge\[constrain\]"'):
        ConstraintCompiler(nano, ends=(1,), vocab_size=9).compile(constraint)


def test_choices_are_compared_by_what_they_are() -> None:
    assert Choices(["a", "b"]) == Choices(("a", "b"))
    assert Choices(["a"]) != Choices(["a"], after="Answer: ")
    assert Choices(WORDS).options == WORDS
