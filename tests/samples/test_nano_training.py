"""The nano model's training: the reference's function, right targets, and a state that survives a kill."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "samples" / "nano"))
from batches import COLOUR_NAMES, Encoder, batches, collate, draw_question, named_in, seen_in
from checkpoint import nano_config, write_checkpoint
from losses import model_inputs
from neo_edge.checkpoint import open_checkpoint
from neo_edge.config import parse_config
from neo_edge.patch_grid import PatchGrid, pack_order
from neo_edge.tokenizer import load_tokenizer
from neo_edge_calibration.question import Region
from neo_edge_calibration.scenes import FAMILIES
from neo_edge_calibration.scenes.drawing import SHAPES
from neo_edge_export.reference import NeoModel
from train import Recipe, Training
from training_families import COMPARE, FIND, TRAINING_FAMILIES, find_question
from training_forward import forward

SHIPPED = Path(__file__).parents[2] / "neo_edge" / "checkpoints" / "neo-ov-nano"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(SHIPPED)


@pytest.fixture(scope="module")
def model() -> NeoModel:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = NeoModel(parse_config(nano_config(Tokenizer.from_file(str(SHIPPED / "tokenizer.json")))))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", ["nearest", "more", "when"])
def test_the_training_forward_equals_the_reference(family: str, encoder: Encoder, model: NeoModel) -> None:
    questions = [draw_question(family, "test", index) for index in range(2)]
    samples = [encoder.sample(question, Random(0)) for question in questions]
    inputs = model_inputs(collate(samples, 0))
    logits = forward(model, inputs, torch.ones_like(inputs.is_visual), torch.float32)[0]
    logits = logits.view(*inputs.ids.shape, -1)
    for row, sample in enumerate(samples):
        expected = reference_logits(model, sample)
        found = logits[row, : len(sample.ids)]
        assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def reference_logits(model: NeoModel, sample: object) -> torch.Tensor:
    """Row-major patches through the reference's convolutions, one sample alone."""
    from neo_edge_export.reference import allowed_by_time

    grids, rows, start = [], [], 0
    xy = sample.xy  # type: ignore[attr-defined]
    while start < len(xy):  # a picture's packed positions begin at (0, 0)
        ends = [index for index in range(start + 4, len(xy), 4) if not xy[index].any()]
        end = ends[0] if ends else len(xy)
        grid = PatchGrid(int(xy[start:end, 1].max()) + 1, int(xy[start:end, 0].max()) + 1)
        picture = np.empty((grid.patches, 768), np.float32)
        picture[pack_order(grid)] = sample.patches[start:end]  # type: ignore[attr-defined]
        grids.append([grid.rows, grid.cols])
        rows.append(picture)
        start = end
    mean, std = np.repeat((0.485, 0.456, 0.406), 256), np.repeat((0.229, 0.224, 0.225), 256)
    pixels = torch.from_numpy(((np.concatenate(rows) / 255 - mean) / std).astype(np.float32))
    ids = torch.from_numpy(sample.ids)  # type: ignore[attr-defined]
    positions = torch.from_numpy(sample.position_ids)[None]  # type: ignore[attr-defined]
    embeds = model.embed(ids, torch.from_numpy(sample.is_visual), pixels, torch.tensor(grids))  # type: ignore[attr-defined]
    return model.language_model(embeds, positions, allowed_by_time(positions[:, 0]))[0]


@settings(max_examples=20, deadline=None)
@given(family=st.sampled_from([*FAMILIES, *TRAINING_FAMILIES]), index=st.integers(0, 10_000))
def test_only_the_answer_is_learned(family: str, index: int) -> None:
    encoder = Encoder(SHIPPED)
    tokenizer = load_tokenizer(SHIPPED)
    assert tokenizer is not None
    question = draw_question(family, "test", index)
    sample = encoder.sample(question, Random(index))
    learned = [int(token) for token, weight in zip(sample.ids, sample.weight, strict=True) if weight]
    response = question.response
    if family == FIND:  # the names are given, their boxes are wanted
        response = re.sub("<ref>.*?</ref>", "<ref>", response)
    if family == COMPARE:  # so are these, but for the verdicts
        response = "".join(re.findall("(?<=, ).*\n?", response))
    assert tokenizer.decode(learned, skip_special=False) == f"{response}<|im_end|>\n"
    first = int(np.flatnonzero(sample.weight)[0])
    prompt = tokenizer.decode([int(token) for token in sample.ids[:first]], skip_special=False)
    assert prompt.split("<|im_start|>assistant\n")[1] == question.response[
        : question.response.find(", ") + 2
    ] * (family == COMPARE)
    assert question.prompt in prompt


def test_coordinates_and_nothing_else_are_marked(encoder: Encoder) -> None:
    question = draw_question("nearest", "test", 4)
    sample = encoder.sample(question, Random(0))
    assert int(sample.is_coordinate.sum()) == 4 * question.response.count("<box>")
    assert set(sample.ids[sample.is_coordinate]) <= set(encoder.coordinate_ids.tolist())


def test_each_visual_token_is_told_what_it_shows() -> None:
    red_ball, blue_cube = Region("red ball", (0, 0, 500, 500)), Region("blue cube", (700, 600, 900, 1000))
    seen = seen_in(PatchGrid(8, 8), [red_ball, blue_cube]).reshape(4, 4, 6)  # 4x4 visual tokens
    kinds = [
        [f"{COLOUR_NAMES[colour - 1]} {SHAPES[shape - 1]}" if colour else "" for colour, shape, *_ in row]
        for row in seen.tolist()
    ]
    assert kinds == [
        ["red ball", "red ball", "", ""],
        ["red ball", "red ball", "", ""],
        ["", "", "blue cube", "blue cube"],
        ["", "", "blue cube", "blue cube"],
    ]
    assert seen[0, 0, 2:].tolist() == [0, 0, 50, 50]
    assert seen[3, 3, 2:].tolist() == [70, 60, 90, 100]


def test_the_last_word_of_a_name_and_what_stands_for_its_first_box_are_about_the_whole_name() -> None:
    text = [
        "a ",
        "red",
        " ba",
        "ll",
        ". <ref>",
        "blue",
        " objects",
        "</ref>",
        "<box>",
        "[[",
        "10",
        "],",
        " [",
    ]
    text += ["cube", "s", "</ref>"]
    red, blue = COLOUR_NAMES.index("red") + 1, COLOUR_NAMES.index("blue") + 1
    ball, cube = SHAPES.index("ball") + 1, SHAPES.index("cube") + 1
    named = {index: tuple(about) for index, about in enumerate(named_in(text).tolist()) if any(about)}
    about_blue = dict.fromkeys((6, 7, 8, 9, 10), (blue, 0))
    assert named == {3: (red, ball), **about_blue, 14: (0, cube), 15: (0, cube)}


def test_a_thing_that_barely_touches_a_token_is_not_what_it_shows() -> None:
    assert not seen_in(PatchGrid(4, 4), [Region("red ball", (0, 0, 100, 100))])[:, 0].any()


@pytest.mark.parametrize("index", range(40))
def test_names_to_find_have_the_boxes_of_the_things_they_fit(index: int) -> None:
    question = find_question(Random(index))
    names = re.findall("<ref>(.*?)</ref>", question.response)
    boxes = [json.loads(found) for found in re.findall(r"<box>(.*?)</box>", question.response)]
    assert len(names) == len(set(names)) == len(boxes)
    for name, found in zip(names, boxes, strict=True):
        *colours, last = name.removesuffix("s").split()
        fitting = [
            list(region.box)
            for region in question.regions[0]
            if region.name.startswith(" ".join(colours)) and (last == "object" or region.name.endswith(last))
        ]
        assert sorted(found) == sorted(fitting), name


def test_most_names_to_find_are_there_and_some_are_not() -> None:
    found = [re.findall(r"<box>(.*?)</box>", find_question(Random(i)).response) for i in range(100)]
    absent = sum(boxes.count("[]") for boxes in found) / sum(map(len, found))
    assert 0.15 < absent < 0.5


def test_a_padded_row_does_not_change_its_neighbours(encoder: Encoder, model: NeoModel) -> None:
    long, short = (encoder.sample(draw_question(f, "test", 1), Random(0)) for f in ("when", "colour"))
    alone, both = (model_inputs(collate(samples, 0)) for samples in ([short], [short, long]))
    with torch.no_grad():
        first = forward(model, alone, torch.ones_like(alone.is_visual), torch.float32)[0][: len(short.ids)]
        second = forward(model, both, torch.ones_like(both.is_visual), torch.float32)[0][: len(short.ids)]
    assert torch.allclose(first, second, atol=1e-5 * float(first.abs().max()))


def test_the_same_seed_draws_the_same_batches() -> None:
    first, again = (next(batches(SHIPPED, "test", 0, {"colour": 1.0}, 512)) for _ in range(2))
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.patches, again.patches)


def test_training_lowers_the_loss_and_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    recipe = Recipe(families=("colour",), tokens_per_batch=512, warmup_steps=5)
    training = Training(recipe, tmp_path, False, {})
    source = batches(tmp_path, "test", 0, training.mix, 512)
    losses = [float(np.mean(training._train_step(next(source)))) for _ in range(24)]
    assert np.mean(losses[-4:]) < 0.7 * losses[0]
    training.next_index = 384
    training._save()
    resumed = Training(recipe, tmp_path, False, {})
    assert (resumed.step, resumed.next_index) == (24, 384)
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    batch = next(source)
    assert resumed._train_step(batch) == training._train_step(batch)


def test_a_half_written_state_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    (tmp_path / "state.pt.partial").write_bytes(b"cut short")
    assert Training(Recipe(), tmp_path, False, {}).step == 0


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    Training(Recipe(), tmp_path, False, {})._save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["parameters"].reverse()
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(SystemExit, match="other parameters"):
        Training(Recipe(), tmp_path, False, {})


def test_a_written_checkpoint_is_one_that_export_accepts(tmp_path: Path, model: NeoModel) -> None:
    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    write_checkpoint(tmp_path, nano_config(tokenizer), tokenizer, dict(model.state_dict()))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.decoder.tie_word_embeddings
    assert (tmp_path / "model.safetensors").stat().st_size <= 12_000_000
