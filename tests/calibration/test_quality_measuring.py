"""Measuring variants of the shipped checkpoint: one in float16, one that was damaged on purpose."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_bundle import write_bundle

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.cli import main
from neo_edge.config import load_config
from neo_edge.errors import BackendError, BundleError, InputError, TokenizerError
from neo_edge.manifest import Manifest, parse_manifest
from neo_edge_calibration.evaluation import ask, scene_questions
from neo_edge_calibration.quality import (
    QualityData,
    QualityReport,
    ReferenceAnswers,
    file_data,
    measure_quality,
    measure_variants,
    measuring,
    scene_data,
)
from neo_edge_calibration.quality.asking import Interviewer
from neo_edge_calibration.quality.measuring import variant_bytes
from neo_edge_calibration.question import Question, Questions
from neo_edge_calibration.scoring import is_right
from neo_edge_runtime.loading import load

FAMILIES = ("colour", "box", "motion")
COUNT = 7  # 21 questions: a whole block and a part of one
NOISE = 0.4  # of each weight: enough to lose questions, not all of them


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    import torch

    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    torch.set_num_threads(1)
    target = tmp_path_factory.mktemp("quality") / "nano.bundle"
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, ExportOptions(precisions=("fp32", "fp16")))
    with BundleUpdate(open_bundle(target)) as update:
        folder = update.directory / "int8"
        shutil.copytree(target / "fp32", folder)
        weights = np.fromfile(folder / "decoder.onnx.data", "<f4")
        weights *= 1 + NOISE * np.random.default_rng(0).standard_normal(len(weights), np.float32)
        weights.tofile(folder / "decoder.onnx.data")
        return update.commit(_with_damaged_variant)


def _with_damaged_variant(manifest: Manifest) -> Manifest:
    whole = manifest.variants["fp32"]
    damaged = replace(
        whole,
        precision="int8",
        vision="int8/vision.onnx",
        decoder="int8/decoder.onnx",
        token_embedding=replace(whole.token_embedding, file="int8/token_embedding.bin"),
        quality={
            "layer_snr_db": {"down_proj": 8.0, "up_proj": None},
            "made": {
                "recipe": {"name": "noise"},
                "source": "fp32",
                "calibration": {"samples": 9, "data_digest": "0f"},
            },
        },
    )
    return replace(manifest, variants={**manifest.variants, "int8": damaged})


@pytest.fixture(scope="module")
def data() -> QualityData:
    return scene_data(COUNT, 3, FAMILIES)


@pytest.fixture(scope="module")
def reports(bundle: Bundle, data: QualityData) -> dict[str, QualityReport]:
    return measure_variants(bundle, ["fp16", "int8"], "fp32", data, threads=1)


def test_half_precision_loses_nothing_and_noise_loses_much(reports: dict[str, QualityReport]) -> None:
    half, damaged = reports["fp16"], reports["int8"]
    assert [family.name for family in half.families] == list(FAMILIES)
    assert half.whole.count == damaged.whole.count == COUNT * len(FAMILIES)
    assert half.whole.reference_right == damaged.whole.reference_right >= 20
    assert half.whole.lost == half.whole.gained == 0
    assert damaged.whole.lost >= 5
    assert damaged.verdict == "missed" or damaged.whole.interval[0] > 0
    assert half.tokens.top1_agreement > 0.99 > 0.9 > damaged.tokens.top1_agreement
    assert half.tokens.kl_mean < 1e-5 < 0.05 < damaged.tokens.kl_mean
    for tokens in (half.tokens, damaged.tokens):
        assert 0 < tokens.kl_mean < tokens.kl_p99 <= tokens.kl_max
        assert sum(tokens.kl_histogram) == tokens.count
        assert tokens.reference_perplexity == half.tokens.reference_perplexity
    assert half.tokens.perplexity == pytest.approx(half.tokens.reference_perplexity, rel=1e-2)
    assert damaged.tokens.perplexity > 1.05 * half.tokens.reference_perplexity


def test_answers_and_scores_are_those_of_asking_one_by_one(bundle: Bundle, data: QualityData) -> None:
    questions = list(data.questions)[5:11]
    with load(bundle.root, variant="fp32", threads=1) as model:
        alone = [ask(model, question) for question in questions]
        ids = [model.tokenizer.encode(text) for text in alone if model.tokenizer]
    with Interviewer(bundle, ["fp32", "int8"], threads=1) as interviewer:
        found = interviewer.ask(questions)
    assert [one.reference.right for one in found] == [
        is_right(question, text) for question, text in zip(questions, alone, strict=True)
    ]
    assert [list(one.reference_answer[:-1]) for one in found] == ids  # but for the end


def test_the_divergence_is_taken_over_the_references_answer_and_its_end(
    bundle: Bundle, data: QualityData
) -> None:
    questions = list(data.questions.part(0, 2))
    with Interviewer(bundle, ["fp32", "fp16"], threads=1) as interviewer:
        found = interviewer.ask(questions)
        again = interviewer.ask(questions, [one.reference_answer for one in found])
    for first, second in zip(found, again, strict=True):
        assert len(first.variants[0].kl) == len(first.reference_answer)
        assert first.variants[0].agreed <= len(first.reference_answer)
        np.testing.assert_array_equal(first.variants[0].kl, second.variants[0].kl)
        assert (first.reference, first.digest) == (second.reference, second.digest)


def test_a_variant_compared_with_its_own_copy_differs_in_nothing(bundle: Bundle, data: QualityData) -> None:
    with Interviewer(bundle, ["fp32", "fp32"], threads=1) as interviewer:
        found = interviewer.ask(list(data.questions.part(0, 4)))
    for one in found:
        (copy,) = one.variants
        assert (copy.right, copy.surprise) == (one.reference.right, one.reference.surprise)
        assert copy.agreed == len(copy.kl)
        assert (copy.kl == 0).all()


def test_the_number_of_processes_changes_nothing(
    bundle: Bundle, data: QualityData, reports: dict[str, QualityReport]
) -> None:
    found = measure_variants(bundle, ["fp16", "int8"], "fp32", data, threads=1, processes=2)
    for name, report in found.items():
        assert replace(report, provenance={}) == replace(reports[name], provenance={})


def test_known_answers_of_the_reference_give_the_same_report(
    bundle: Bundle, data: QualityData, reports: dict[str, QualityReport]
) -> None:
    known = ReferenceAnswers()
    measure_quality(bundle, "fp16", "fp32", data, threads=1, reference_answers=known)
    second = measure_quality(bundle, "int8", "fp32", data, threads=1, reference_answers=known)
    assert replace(second, provenance={}) == replace(reports["int8"], provenance={})
    with pytest.raises(InputError, match="to other questions"):
        measure_quality(
            bundle, "int8", "fp32", scene_data(1, 4, FAMILIES), threads=1, reference_answers=known
        )


def test_the_digest_tells_other_questions_apart(bundle: Bundle, reports: dict[str, QualityReport]) -> None:
    again = measure_quality(bundle, "fp16", "fp32", scene_data(1, 3, ["colour"]), threads=1)
    other = measure_quality(bundle, "fp16", "fp32", scene_data(1, 4, ["colour"]), threads=1)
    assert len({again.data_digest, other.data_digest, reports["fp16"].data_digest}) == 3


def test_the_manifest_takes_the_report(bundle: Bundle, reports: dict[str, QualityReport]) -> None:
    variant = replace(bundle.variant("int8"), quality=reports["int8"].to_manifest())
    manifest = replace(bundle.manifest, variants={**bundle.manifest.variants, "int8": variant})
    assert parse_manifest(manifest.to_json()).variants["int8"].quality == reports["int8"].to_manifest()


def test_signal_to_noise_comes_from_the_caller_or_else_from_the_manifest(
    bundle: Bundle, reports: dict[str, QualityReport]
) -> None:
    assert reports["int8"].layer_snr_db == {"down_proj": 8.0, "up_proj": math.inf}
    assert reports["fp16"].layer_snr_db == {}
    data = scene_data(1, 0, ["colour"])
    given = measure_quality(bundle, "int8", "fp32", data, threads=1, layer_snr_db={"q": 3.0})
    assert given.layer_snr_db == {"q": 3.0}


def test_the_report_says_where_it_is_from(reports: dict[str, QualityReport]) -> None:
    rows = reports["int8"].provenance
    assert rows["recipe"] == "noise"
    assert rows["made from"] == "fp32"
    assert rows["calibration"] == "samples 9, data digest 0f"
    assert {"files of fp32", "files of int8", "checkpoint", "machine", "software", "date"} <= rows.keys()
    assert len({rows["files of fp32"], rows["files of int8"], rows["files of fp16"]}) == 3
    assert "recipe" not in reports["fp16"].provenance
    assert "kernels of our own" not in rows


def test_the_report_says_who_answered_through_kernels_of_our_own(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(kernels=True)
    monkeypatch.setattr(measuring, "find_prepacked", lambda _, __, name: entry if name == "int8" else None)
    assert measuring.provenance_rows(bundle, ("fp32", "int8"), 1)["kernels of our own"] == "int8"


def test_bytes_are_those_of_the_variants_own_files(bundle: Bundle) -> None:
    size = variant_bytes(bundle, "fp16")
    assert size.total == sum(path.stat().st_size for path in (bundle.root / "fp16").iterdir())
    assert size.token_table == (bundle.root / "fp16" / "token_embedding.bin").stat().st_size
    assert size.graphs == sum(path.stat().st_size for path in (bundle.root / "fp16").glob("*.onnx"))


def test_a_preview_of_an_update_can_be_measured(bundle: Bundle) -> None:
    with BundleUpdate(bundle) as update:
        shutil.copytree(bundle.root / "fp16", update.directory / "new")

        def change(manifest: Manifest) -> Manifest:
            half = manifest.variants["fp16"]
            new = replace(
                half,
                vision="new/vision.onnx",
                decoder="new/decoder.onnx",
                token_embedding=replace(half.token_embedding, file="new/token_embedding.bin"),
            )
            return replace(manifest, variants={**manifest.variants, "new": new})

        found = measure_quality(
            update.preview(change), "new", "fp32", scene_data(1, 0, ["colour"]), threads=1
        )
    assert found.whole.count == 1
    assert "new" not in open_bundle(bundle.root).manifest.variants


def test_scenes_of_quality_are_none_of_those_that_evaluation_draws() -> None:
    quality = next(iter(scene_data(1, 0, ["colour"]).questions))
    assert quality != next(iter(scene_questions(["colour"], 0, 1)))
    assert quality == next(iter(scene_data(1, 0, ["colour"]).questions))


def test_a_file_of_questions_is_measured_by_its_families(bundle: Bundle, tmp_path: Path) -> None:
    question = next(iter(scene_data(1, 0, ["colour"]).questions))
    question.images[0].save(tmp_path / "scene.png")
    row = {"question": question.prompt, "kind": "text", "answer": question.answer, "images": ["scene.png"]}
    (tmp_path / "own.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'family': 'twice'})}\n")
    found = measure_quality(bundle, "fp16", "fp32", file_data(tmp_path / "own.jsonl"), threads=1)
    assert [(family.name, family.right) for family in found.families] == [("text", 1), ("twice", 1)]
    assert found.data == "own.jsonl"


@pytest.mark.parametrize(
    ("variants", "options", "message"),
    [
        (["fp32"], {}, "cannot be measured against fp32"),
        ([], {}, "nothing cannot be measured"),
        (["fp16", "fp16"], {}, "each once"),
        (["fp16"], {"processes": 0}, "processes is 0"),
        (["fp16"], {"target_drop": 1.5}, "target_drop is 1.5"),
        (["fp16"], {"threads": 0}, "threads is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(
    bundle: Bundle, data: QualityData, variants: Sequence[str], options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure_variants(bundle, variants, "fp32", data, **options)  # type: ignore[arg-type]


def test_an_unknown_variant_is_refused_with_the_names_there_are(bundle: Bundle, data: QualityData) -> None:
    with pytest.raises(BundleError, match="has no variant 'int3': it has fp32, fp16, int8"):
        measure_quality(bundle, "int3", "fp32", data)


def test_a_bundle_without_tokenizer_cannot_be_asked(tmp_path: Path) -> None:
    config = load_config(Path(__file__).parents[1] / "golden" / "tiny")
    write_bundle(tmp_path / "b", config)
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        Interviewer(open_bundle(tmp_path / "b"), ["fp32"], threads=1)


def test_an_error_of_a_measuring_process_is_the_callers(bundle: Bundle) -> None:
    def questions(count: int) -> QualityData:
        return QualityData("broken", Questions([partial(_broken, index) for index in range(count)]))

    with pytest.raises(InputError, match="question 20 has no picture"):
        measure_quality(bundle, "fp16", "fp32", questions(40), threads=1, processes=2)


def test_a_measuring_process_that_is_killed_is_a_backend_error(bundle: Bundle) -> None:
    data = QualityData("deadly", Questions([partial(_kill_own_process, os.getpid())] * 3))
    with pytest.raises(BackendError, match="one of 2 measuring processes ended early .*: use fewer"):
        measure_quality(bundle, "fp16", "fp32", data, threads=1, processes=2)


def _kill_own_process(parent: int) -> Question:
    assert os.getpid() != parent
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _broken(index: int) -> Question:
    if index == 20:
        raise InputError("question 20 has no picture")
    return next(iter(scene_questions(["colour"], 0, 1)))


class TestCommand:
    def test_it_prints_a_table_writes_the_page_and_fails_when_the_target_is_not_met(
        self, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        html = tmp_path / "report.html"
        arguments = [
            "--family",
            "colour",
            "--count",
            "7",
            "--seed",
            "3",
            "--threads",
            "1",
            "--html",
            str(html),
        ]
        assert main(["quality", str(bundle.root), "--variant", "int8", *arguments]) == 1
        printed = capsys.readouterr().out
        assert printed.startswith("int8 beside fp32, 7 questions")
        assert "colour" in printed
        assert "Quality of int8 beside fp32" in html.read_text(encoding="utf-8")

    def test_it_prints_json_of_several_variants_and_writes_a_page_for_each(
        self, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        variants = ["--variant", "int8", "--variant", "fp16"]
        options = ["--family", "colour", "--count", "2", "--target-drop", "90", "--threads", "1", "--json"]
        arguments = [*variants, *options, "--html", str(tmp_path / "r.html")]
        assert main(["quality", str(bundle.root), *arguments]) in (0, 1)
        found = json.loads(capsys.readouterr().out)
        assert list(found) == ["int8", "fp16"]
        assert found["fp16"]["verdict"] == "met"
        assert found["fp16"]["target_drop"] == 0.9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["r-fp16.html", "r-int8.html"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--family", "poetry"], "there is no family poetry"),
            (["--count", "0"], "count is 0"),
            (["--data", "missing.jsonl"], "cannot be read"),
            (["--data", "missing.jsonl", "--count", "3"], "leave them out, or the file"),
            (["--html", "no/such/folder/r.html"], "make it first"),
            (["--reference", "fp64"], "has no variant 'fp64'"),
        ],
    )
    def test_it_refuses_with_a_cure(
        self, bundle: Bundle, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["quality", str(bundle.root), "--variant", "fp16", *arguments]) == 1
        assert message in capsys.readouterr().err
