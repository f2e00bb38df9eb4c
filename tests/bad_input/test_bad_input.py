"""The table of bad input: each row gets a typed error whose message holds the cure, or what is documented.

Nothing is half-written, the process goes on, memory and files are given back, and no warning gets out.
"""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
from bad_row import Place, Row
from bundle_rows import BUNDLE_ROWS
from calibration_rows import CALIBRATION_ROWS
from checkpoint_rows import CHECKPOINT_ROWS
from command_rows import COMMAND_ROWS
from config_rows import CONFIG_ROWS
from export_rows import EXPORT_ROWS
from image_rows import IMAGE_ROWS
from kernel_rows import KERNEL_ROWS
from observation import forget_peak, listing, open_files, peak_mib, resident_mib
from prepacked_rows import PREPACKED_ROWS
from prompt_rows import PROMPT_ROWS
from quantizing_rows import QUANTIZING_ROWS
from question_rows import QUESTION_ROWS
from session_rows import SESSION_ROWS
from tokenizer_rows import TOKENIZER_ROWS
from trust_rows import TRUST_ROWS

import neo_edge

TABLE = {
    "bundle": BUNDLE_ROWS,
    "checkpoint": CHECKPOINT_ROWS,
    "config": CONFIG_ROWS,
    "tokenizer": TOKENIZER_ROWS,
    "image": IMAGE_ROWS,
    "prompt": PROMPT_ROWS,
    "session": SESSION_ROWS,
    "export": EXPORT_ROWS,
    "question": QUESTION_ROWS,
    "calibration": CALIBRATION_ROWS,
    "quantizing": QUANTIZING_ROWS,
    "prepacked": PREPACKED_ROWS,
    "kernels": KERNEL_ROWS,
    "trust": TRUST_ROWS,
    "command": COMMAND_ROWS,
}
ROWS = [pytest.param(row, id=f"{area}: {row.broken}") for area, rows in TABLE.items() for row in rows]
KEPT_MIB = 48  # what a row may keep: libraries' own pools and caches that fill once


@pytest.fixture(scope="module")
def answer(bundle: Path) -> tuple[int, ...]:
    """What the model answers before anything went wrong."""
    return ask(bundle)


def ask(bundle: Path) -> tuple[int, ...]:
    with neo_edge.load(bundle, threads=1) as model:
        return model.generate("hello", options=neo_edge.SamplingOptions(max_new_tokens=8)).token_ids


@pytest.mark.usefixtures("answer")  # all libraries are loaded before memory is looked at
@pytest.mark.parametrize("row", ROWS)
def test_bad_input(
    row: Row,
    tmp_path: Path,
    bundle: Path,
    checkpoint: Path,
    quantized: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    action = row.prepare(Place(tmp_path, bundle, checkpoint, quantized, monkeypatch))
    before, descriptors, resident = listing(tmp_path), open_files(), resident_mib()
    forget_peak()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        if row.error is None:
            found = action()
            assert row.gives is not None
            assert row.gives(found), found
            del found
        else:
            with pytest.raises(row.error) as caught:
                action()
            assert type(caught.value) is row.error
            missing = [word for word in row.words if word not in str(caught.value)]
            assert not missing, f"{missing} not in {caught.value}"
            assert len(str(caught.value)) < 2000
            del caught
    assert [str(warning.message) for warning in leaked] == []
    assert listing(tmp_path) == before
    assert peak_mib() - resident < row.peak_mib
    del action
    if open_files() > descriptors:  # an error's traceback may keep the model in a circle
        gc.collect()
    assert open_files() <= descriptors
    assert resident_mib() - resident < KEPT_MIB


def test_after_all_of_it_the_process_answers_as_before(bundle: Path, answer: tuple[int, ...]) -> None:
    assert ask(bundle) == answer


def test_the_table_covers_what_it_must() -> None:
    assert len(ROWS) >= 120
    ids = [str(row.id) for row in ROWS]
    assert len(set(ids)) == len(ids)
    for area, rows in TABLE.items():
        for row in rows:
            assert (row.error is None) == (row.gives is not None), (area, row.broken)
            assert row.error is None or row.words, f"{area}: {row.broken} names no words of the cure"
