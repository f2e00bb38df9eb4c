from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_bundle import (
    STATISTICS,
    folder_of_pictures,
    leftovers,
    linked_copy,
    one_by_one,
    questions,
    quick_calibrate,
    spoilt_weights,
)
from PIL import Image

from neo_edge.bundle import open_bundle, verify_bundle
from neo_edge.cli import main
from neo_edge.errors import (
    BundleCorruptError,
    BundleError,
    CalibrationDataError,
    CalibrationError,
    InputError,
    NeoEdgeError,
    StatisticsError,
    TokenizerError,
)
from neo_edge_calibration import Conversation, Turn, load_statistics
from neo_edge_calibration.observation.run_state import STATE
from neo_edge_calibration.question import Question
from neo_edge_runtime.batch_request import Request


def _failing(bundle: Path, message: str, error: type[NeoEdgeError], **options: object) -> None:
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(error, match=message):
        quick_calibrate(bundle, **options)
    assert (bundle / "bundle.json").read_bytes() == before
    assert leftovers(bundle) == []


def test_statistics_become_part_of_the_bundle(nano: Path) -> None:
    result = quick_calibrate(nano)
    assert not result.reused
    assert result.skipped == ()
    bundle = verify_bundle(nano)
    entry = bundle.manifest.calibrations["default"]
    assert (entry.file, entry.variant, entry.method, entry.samples) == (STATISTICS, "fp32", "max", 8)
    assert leftovers(nano) == []
    loaded = load_statistics(bundle)
    assert loaded.data_digest == result.statistics.data_digest
    assert list(loaded.groups) == sorted(result.statistics.groups)


def test_equal_data_and_options_give_equal_bytes(exported_nano: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        bundle = linked_copy(exported_nano, tmp_path / name)
        quick_calibrate(bundle, one_by_one(questions()))
        written.append((bundle / STATISTICS).read_bytes())
    assert written[0] == written[1]


def test_nothing_runs_when_the_statistics_are_there(nano: Path) -> None:
    quick_calibrate(nano)
    before = (nano / "bundle.json").read_bytes()
    (nano / f"{STATE}0123").mkdir()  # of a run that was killed when all was written
    result = quick_calibrate(nano)
    assert result.reused
    assert (nano / "bundle.json").read_bytes() == before
    assert leftovers(nano) == []


@pytest.mark.parametrize(
    "change",
    [{"method": "mse"}, {"seed": 1}, {"variant": "fp16"}, {"prompts": questions(seed="other")}],
    ids=["method", "seed", "variant", "data"],
)
def test_other_data_or_options_need_another_name_or_consent(nano: Path, change: dict[str, object]) -> None:
    quick_calibrate(nano)
    _failing(
        nano,
        "has a calibration 'default' of other data or options .*: choose another name",
        CalibrationError,
        **change,
    )
    assert quick_calibrate(nano, **change, name="second").name == "second"
    result = quick_calibrate(nano, **change, overwrite=True)
    assert not result.reused
    names = verify_bundle(nano).manifest.calibrations
    assert names["default"].file == "calibration/default-2.safetensors"
    assert sorted(os.listdir(nano / "calibration")) == ["default-2.safetensors", "second.safetensors"]


def test_the_method_is_what_ranges_follow(nano: Path) -> None:
    found = quick_calibrate(nano, method="percentile").statistics.groups["layers.0.mlp_output"]
    assert found.range() == found.range("percentile") < found.range("max")
    loaded = load_statistics(open_bundle(nano)).groups["layers.0.mlp_output"]
    assert loaded.range() == found.range()


def test_a_whole_conversation_goes_through(nano: Path) -> None:
    """Both turns and both answers are tokens of one sequence, as the runtime would have them in its cache."""
    from neo_edge.tokenizer import load_tokenizer
    from neo_edge_calibration.observation.encoding import Encoder

    picture = Image.new("RGB", (96, 96), (200, 30, 30))
    turns = (
        Turn("What colour is the ball?", "red", images=[picture]),
        Turn("And how many balls are there?", "1"),
    )
    sample = Encoder(open_bundle(nano), "edge").encode(Conversation(turns, "two turns"))
    tokenizer = load_tokenizer(nano)
    assert tokenizer is not None
    text = tokenizer.decode(sample.input_ids.tolist(), skip_special=False)
    visual = "<IMG_CONTEXT>" * 9
    assert text == (
        f"<|im_start|>user\n<img>{visual}</img>\nWhat colour is the ball?<|im_end|>\n"
        "<|im_start|>assistant\nred<|im_end|>\n"
        "<|im_start|>user\nAnd how many balls are there?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>"
    )
    # The head is watched where it predicts an answer or its end.
    predicted = tokenizer.decode(sample.input_ids[sample.head_rows + 1].tolist(), skip_special=False)
    assert predicted == "red<|im_end|>1<|im_end|>"


def test_requests_and_questions_and_conversations_may_be_mixed(nano: Path) -> None:
    picture = questions()[0].images[0]
    prompts = [
        *questions(6),
        Request("What is this?", images=[picture]),
        Conversation((Turn("What is this?", "A ball.", images=[picture]),), "said"),
    ]
    assert quick_calibrate(nano, prompts).statistics.samples == 8
    with pytest.raises(
        CalibrationDataError, match="prompt 0 is of type str: give a Conversation, a Question"
    ):
        quick_calibrate(nano, ["What is this?"])


def test_a_broken_picture_among_good_ones_is_skipped_and_named(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_pictures(tmp_path / "shelf", 9)
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    assert main(["calibrate", str(nano), "--data", str(folder), "--threads", "1"]) == 0
    seen = capsys.readouterr()
    assert "wrote calibration 'default' into" in seen.out
    assert "8 samples of pictures in shelf through fp32" in seen.out
    assert "skipped 1 samples\n" in seen.err
    assert "04.png cannot be read as a picture" in seen.err
    assert "warning: 128 samples were asked for, and there are 8" in seen.err
    assert "warning: 8 samples are few" in seen.err
    assert main(["calibrate", str(nano), "--data", str(folder), "--threads", "1"]) == 0
    assert "calibration 'default' is already there: 8 samples of pictures in shelf" in capsys.readouterr().out


def test_too_few_usable_samples_are_an_error(nano: Path) -> None:
    _failing(nano, "7 samples can be used; at least 8 are needed", CalibrationDataError, prompts=questions(7))
    _failing(nano, "samples is 7; at least 8 are needed", InputError, samples=7)


def test_text_alone_is_an_error_for_a_model_that_sees(nano: Path) -> None:
    prompts = [Request(f"What is {number}?") for number in range(8)]
    message = "not one of 8 samples has a picture, and this model sees: .*; give pictures among the prompts"
    _failing(nano, message, CalibrationDataError, prompts=prompts)


def test_samples_beyond_the_longest_are_skipped(nano: Path) -> None:
    prompts: list[Question | Request] = [*questions(), Request("word " * 5000)]
    result = quick_calibrate(nano, [prompts[-1], *prompts[:-1]])
    assert result.statistics.samples == 8
    assert len(result.skipped) == 1
    assert "tokens; at most 4096 are used" in result.skipped[0]


def test_blank_pictures_are_an_error(nano: Path) -> None:
    prompts = [Request("What?", images=[Image.new("RGB", (64, 64), (9, 9, 9))]) for _ in range(8)]
    message = r"vision.patches is the same in every row \(\d+ rows of 768 channels\), .*blank pictures"
    _failing(nano, message, StatisticsError, prompts=prompts)


def test_nan_weights_are_an_error_that_names_the_group(nano: Path) -> None:
    def spoil(weights: np.ndarray) -> None:
        weights[5] = np.nan

    spoilt_weights(nano, "fp32", spoil, "layers.2.mlp.gate_proj.weight")
    message = "layers.2.mlp_output holds .* NaN or infinite numbers for prompt 0: the weights are damaged"
    _failing(nano, message, StatisticsError)


def test_weights_that_were_altered_are_an_error_and_no_statistics(nano: Path) -> None:
    weights = nano / "fp32" / "decoder.onnx.data"
    content = bytearray(weights.read_bytes())
    content[7] ^= 1  # a sound number still
    weights.unlink()
    weights.write_bytes(content)
    _failing(nano, "fp32/decoder.onnx.data was altered: .* Copy or export it again", BundleCorruptError)


def test_dead_weights_are_an_error_that_names_the_group(nano: Path) -> None:
    spoilt_weights(nano, "fp32", lambda weights: weights.fill(0), "layers.1.self_attn.v_proj.weight")
    _failing(nano, "layers.1.attention_output is 0 everywhere", StatisticsError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../x"}, r"the calibration's name is '\.\./x': use up to 64 letters"),
        ({"name": ""}, "the calibration's name is ''"),
        ({"threads": 0}, "threads is 0; it must be 1 to"),
        ({"method": "least"}, "there is no method 'least': use one of max, percentile, mse"),
        ({"seed": -1}, "seed is -1; it must be a whole number"),
        ({"protocol": "best"}, "there is no protocol 'best'"),
    ],
)
def test_arguments_out_of_range_are_refused(nano: Path, options: dict[str, object], message: str) -> None:
    _failing(nano, message, InputError, **options)


def test_a_variant_that_is_no_float_one_is_refused(nano: Path) -> None:
    text = (nano / "bundle.json").read_text()
    manifest = open_bundle(nano).manifest
    quantized = replace(manifest.variants["fp16"], precision="int8")
    (nano / "bundle.json").unlink()
    (nano / "bundle.json").write_text(
        replace(manifest, variants={**manifest.variants, "fp16": quantized}).to_json()
    )
    assert (nano / "bundle.json").read_text() != text
    message = "the variant 'fp16' is of precision int8; .* choose fp32 or fp32-portable or fp16-portable"
    _failing(nano, message, CalibrationError, variant="fp16")
    _failing(nano, "has no variant 'bf16'", BundleError, variant="bf16")


def test_a_bundle_without_a_float_variant_is_refused(nano: Path) -> None:
    manifest = open_bundle(nano).manifest
    variants = {name: replace(variant, precision="int8") for name, variant in manifest.variants.items()}
    (nano / "bundle.json").unlink()
    (nano / "bundle.json").write_text(replace(manifest, variants=variants).to_json())
    _failing(nano, "has no float variant .* export with --precision fp32", CalibrationError)


def test_inspect_lists_the_calibrations(nano: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick_calibrate(nano, name="shelf", method="mse")
    assert main(["inspect", str(nano)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["shelf", "8", "fp32", "mse", "prompts", "of", "a", "program"] in lines
    assert main(["inspect", str(nano), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calibrations"] == {
        "shelf": {
            "file": "calibration/shelf.safetensors",
            "variant": "fp32",
            "method": "mse",
            "samples": 8,
            "source": "prompts of a program",
        }
    }


def test_token_ids_need_no_tokenizer_and_text_does(nano: Path) -> None:
    manifest = open_bundle(nano).manifest
    tokens = manifest.special_tokens
    assert tokens is not None
    (nano / "bundle.json").unlink()
    (nano / "bundle.json").write_text(replace(manifest, tokenizer=False).to_json())
    picture = questions()[0].images[0]
    ids = [5, 6, tokens.img_start, tokens.img_context, tokens.img_end, 7]
    result = quick_calibrate(nano, [Request([*ids, number], images=[picture]) for number in range(8)])
    # The head sees every token that is text.
    assert result.statistics.groups["head_input"].rows_seen == 8 * 6
    message = "has no tokenizer, and these prompts are text: give token ids from Python"
    with pytest.raises(TokenizerError, match=message):
        quick_calibrate(nano, name="text")
    turn = Turn(ids, "an answer", images=[picture])
    with pytest.raises(CalibrationDataError, match="said: a prompt of token ids is one turn"):
        quick_calibrate(nano, [Conversation((turn,), "said")], name="text")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((), "said has no turns"),
        ((Turn("a"), Turn("b")), "said: only the last question may be without an answer"),
    ],
)
def test_a_conversation_that_cannot_be_said_is_an_error(
    nano: Path, turns: tuple[Turn, ...], message: str
) -> None:
    _failing(nano, message, CalibrationDataError, prompts=[Conversation(turns, "said")])


def test_a_picture_without_its_place_is_an_error_with_the_samples_name(nano: Path) -> None:
    picture = questions()[0].images[0]
    prompts = [Request("<image><image> What?", images=[picture], name="the third")]
    _failing(nano, "the third: ", CalibrationDataError, prompts=prompts)
    beyond = [Request([10**6], name="ids")]
    _failing(nano, "ids: token id 1000000 is outside the vocabulary", CalibrationDataError, prompts=beyond)
