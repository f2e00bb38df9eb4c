from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime.text_stream import StopStrings, TextStream, Utf8Assembler


class Pieces:
    """A byte-level tokenizer of this test's: token i stands for the bytes of entry i; entry b'' is a special token."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        self.vocabulary = vocabulary

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        assert skip_special
        return b"".join(self.vocabulary[index] for index in ids).decode("utf-8", errors="replace")


any_bytes = st.lists(st.binary(max_size=5), max_size=30)
split_text = st.text(max_size=30).flatmap(
    lambda text: st.lists(st.integers(0, len(text.encode())), max_size=20).map(
        lambda cuts: [
            text.encode()[a:b]
            for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(text.encode())], strict=True)
        ]
    )
)


@given(any_bytes | split_text)
@settings(max_examples=400, deadline=None)
def test_pieces_put_together_are_the_text_of_all_tokens(chunks: list[bytes]) -> None:
    assembler = Utf8Assembler(Pieces(chunks))
    pieces = [assembler.push(index) for index in range(len(chunks))]
    assert "".join([*pieces, assembler.finish()]) == b"".join(chunks).decode("utf-8", errors="replace")


@given(split_text)
@settings(max_examples=200, deadline=None)
def test_pieces_of_real_text_never_hold_a_broken_character_and_come_as_soon_as_they_are_whole(
    chunks: list[bytes],
) -> None:
    assembler, seen = Utf8Assembler(Pieces(chunks)), b""
    written = ""
    for index, chunk in enumerate(chunks):
        seen += chunk
        written += assembler.push(index)
        whole = seen.decode("utf-8", errors="ignore")
        if "\ufffd" in whole:  # a real U+FFFD looks like a broken character until more text follows
            return
        assert written == whole


def test_an_endless_run_of_broken_bytes_keeps_few_tokens_waiting() -> None:
    assembler = Utf8Assembler(Pieces([b"\x80"]))
    pieces = [assembler.push(0) for _ in range(100)]
    assert "".join([*pieces, assembler.finish()]) == "\ufffd" * 100
    assert len("".join(pieces)) >= 96


@given(
    text=st.text(alphabet="ab<|é", max_size=40),
    stops=st.lists(st.text(alphabet="ab<|é", min_size=1, max_size=5), max_size=4),
    data=st.data(),
)
@settings(max_examples=400, deadline=None)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    filter_ = StopStrings(stops)
    written, rest = "", text
    while rest and filter_.found is None:
        size = data.draw(st.integers(1, len(rest)))
        written += filter_.push(rest[:size])
        rest = rest[size:]
        # What has been handed out never has to be taken back.
        assert all(stop not in written for stop in stops)
    written += filter_.finish()
    # With several stop strings the one that is complete first ends the text.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        assert filter_.found is not None
        assert text.startswith(written + filter_.found)
        assert all(stop not in written for stop in stops)
    else:
        assert filter_.found is None
        assert written == text


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["</answer>"])
    assert stops.push("yes </an") == "yes "
    assert stops.push("x") == "</anx"
    assert stops.push("</answer") == ""
    assert stops.push(">rest") == ""
    assert stops.found == "</answer>"
    assert stops.push("more") == ""


def test_the_checkpoints_tokenizer_streams_a_snowman_byte_by_byte(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, stop=("!",))
    pieces = [stream.push(token) for token in tokenizer.encode("a☃b!c")]
    assert pieces == ["a", "", "", "☃", "b", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_without_a_tokenizer_there_is_no_text() -> None:
    stream = TextStream(None)
    assert stream.push(5) == ""
    assert stream.finish() == ""
    assert not stream.stopped


def test_an_unfinished_character_at_the_end_becomes_the_replacement_character() -> None:
    stream = TextStream(Pieces([b"a", "é".encode()[:1]]))
    assert (stream.push(0), stream.push(1), stream.finish()) == ("a", "", "\ufffd")


@pytest.mark.parametrize("stop", ["ab", "aab"])
def test_a_stop_string_that_begins_within_another_start_is_found(stop: str) -> None:
    stops = StopStrings([stop])
    written = "".join(stops.push(letter) for letter in "aaaabX")
    assert written == "aaaab"[: -len(stop)]
    assert stops.found == stop
