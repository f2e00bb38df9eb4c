from __future__ import annotations

import io

import pytest

from neo_edge import progress as progress_module
from neo_edge.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_plain_line_at_the_end_of_quick_work() -> None:
    log = io.StringIO()
    assert list(progress(["a", "b"], "streaming", "tensors", stream=log)) == ["a", "b"]
    assert log.getvalue() == "streaming: 2/2 tensors\n"


def test_long_work_says_in_a_log_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LINE_EVERY_S", 0.0)
    log = io.StringIO()
    assert list(progress(["a", "b"], "streaming", "tensors", stream=log)) == ["a", "b"]
    assert log.getvalue() == "streaming: 1/2 tensors\nstreaming: 2/2 tensors\n"


def test_a_generator_has_no_total() -> None:
    log = io.StringIO()
    assert sum(progress((number for number in (1, 2, 3)), "adding", "numbers", stream=log)) == 6
    assert log.getvalue() == "adding: 3 numbers\n"


def test_units_are_counted_by_hand() -> None:
    log = io.StringIO()
    with progress(3_000_000, "hashing", "B", stream=log) as bar:
        bar.update(1_000_000)
        bar.update(500_000)
    assert log.getvalue() == "hashing: 1.50M/3.00M B\n"


def test_work_that_fails_claims_no_end() -> None:
    log = io.StringIO()
    with pytest.raises(RuntimeError), progress(10, "hashing", "B", stream=log):
        raise RuntimeError
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with progress(2, "building", "graphs", stream=terminal) as bar:
        bar.update(2)
    assert "building: 100%" in terminal.getvalue()
    assert "\r" in terminal.getvalue()


def test_a_note_is_a_line_of_its_own_in_a_log_and_above_the_bar_on_a_terminal() -> None:
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        with progress(2, "measuring", "questions", stream=stream) as bar:
            bar.note("colour is done")
            bar.update(2)
    assert log.getvalue() == "colour is done\nmeasuring: 2/2 questions\n"
    assert "colour is done\n" in terminal.getvalue()


def test_standard_output_stays_free_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress([1], "working"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "working: 1/1 it\n"
