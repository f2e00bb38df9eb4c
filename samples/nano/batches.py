"""Turns questions into padded batches of token ids and packed patches, in processes beside the training."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Full
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy
from neo_edge.positions import layout
from neo_edge.prompt import Message, encode_chat, place_frames
from neo_edge.tokenizer import load_tokenizer
from neo_edge.tokens import IM_END, IMG_CONTEXT, IMG_END, IMG_START, SpecialTokens
from neo_edge_calibration.question import Question, Region
from neo_edge_calibration.scenes import FAMILIES, make_question
from neo_edge_calibration.scenes.drawing import BOX_STEP, COLOURS, SHAPES
from training_families import COMPARE, FIND, TRAINING_FAMILIES, target_size

PATCH = 16  # pixels
POOL = 384  # samples that are sorted by length together
COLOUR_NAMES = tuple(COLOURS)
_KIND = rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?(?:(?P<shape>{'|'.join(SHAPES)})|object)s?"
NAME = re.compile(rf"\b(?P<name>{_KIND})\b(?:</ref>(?:<box>(?:\[\[[\d, ]*)?)?|, )?")
MIN_COVER = 0.12  # part of a visual token that a thing must cover to be what the token shows
ANSWER_WEIGHT, BRACKET_WEIGHT, COORDINATE_WEIGHT = 3.0, 2.0, 0.5  # of tokens; any other step's is 1
SYSTEM_SHARE = 0.15  # of the samples that carry upstream's system prompt


@dataclass(frozen=True)
class Sample:
    """One encoded question with its answer."""

    family: str
    ids: npt.NDArray[np.int64]  # [S]
    position_ids: npt.NDArray[np.int32]  # [3, S]
    is_visual: npt.NDArray[np.bool_]  # [S]
    weight: npt.NDArray[np.float32]  # [S], of predicting this token; 0 for the prompt
    is_coordinate: npt.NDArray[np.bool_]  # [S], numbers within <box>
    patches: npt.NDArray[np.uint8]  # [P, 768], packed order
    xy: npt.NDArray[np.int32]  # [P, 2]
    seen: npt.NDArray[np.int64]  # [P / 4, 6]: what each visual token shows, see `seen_in`
    named: npt.NDArray[np.int64]  # [S, 2]: colour and shape that a word or a box is about, see `named_in`


@dataclass(frozen=True)
class Batch:
    """Samples padded to one length; the patches of all pictures in one matrix."""

    families: tuple[str, ...]
    ids: npt.NDArray[np.int64]  # [B, S]
    position_ids: npt.NDArray[np.int64]  # [B, 3, S]
    is_visual: npt.NDArray[np.bool_]  # [B, S]
    weight: npt.NDArray[np.float32]  # [B, S]
    is_coordinate: npt.NDArray[np.bool_]  # [B, S]
    patches: npt.NDArray[np.uint8]  # [P, 768]
    xy: npt.NDArray[np.int32]  # [P, 2]
    seen: npt.NDArray[np.int64]  # [P / 4, 6]
    named: npt.NDArray[np.int64]  # [B, S, 2]
    next_index: int  # samples drawn so far, to resume from


class Encoder:
    """Writes NEO-ov's conversation template around a question, as the runtime does."""

    def __init__(self, folder: Path) -> None:
        tokenizer = load_tokenizer(folder)
        assert tokenizer is not None, folder
        self._tokenizer = tokenizer
        self._tokens = SpecialTokens(
            img_context=tokenizer.special_id(IMG_CONTEXT),
            img_start=tokenizer.special_id(IMG_START),
            img_end=tokenizer.special_id(IMG_END),
            eos=(tokenizer.special_id(IM_END),),
        )

        no_words = (self._tokens.img_context, self._tokens.img_start, self._tokens.img_end)
        self._texts = [
            "" if token in no_words else tokenizer.decode([token], skip_special=False)
            for token in range(tokenizer.vocab_size)
        ]
        # The vocabulary holds a token for each multiple of ten up to 1000.
        numbers = [tokenizer.encode(str(number)) for number in range(0, 1001, 10)]
        assert all(len(ids) == 1 for ids in numbers), "a coordinate is more than one token"
        self.coordinate_ids = np.asarray([ids[0] for ids in numbers])  # [101]

    def sample(self, question: Question, rng: Random) -> Sample:
        """Encodes prompt and response; system prompt and style of several pictures vary as upstream's do."""
        cut = [cut_patches(image) for image in question.images]
        grids = [grid for grid, _ in cut]
        text = question.prompt
        if question.times_s is not None:
            text = place_frames(text, question.times_s, duration_s=question.duration_s, fps=question.fps)
        ids = encode_chat(
            self._tokenizer,
            [Message("user", text, images=len(grids))],
            [grid.visual_tokens for grid in grids],
            system="Reason step by step." if rng.random() < SYSTEM_SHARE else "",
            style="numbered" if rng.random() < 0.5 else "inline",
        )
        steps, mark, answer = question.response.partition("\nAnswer: ")
        response, final = self._tokenizer.encode(steps), self._tokenizer.encode(mark + answer)
        end = [self._tokenizer.special_id(IM_END), *self._tokenizer.encode("\n")]
        weight = np.concatenate(
            [
                np.zeros(len(ids)),
                self._step_weights(question.family, response),
                np.full(len(final), ANSWER_WEIGHT),
                np.ones(len(end)),
            ]
        )
        ids += response + final + end
        placed = layout(ids, grids, self._tokens)
        return Sample(
            question.family,
            np.asarray(ids, np.int64),
            placed.position_ids,
            placed.is_visual,
            weight.astype(np.float32),
            self._coordinates(np.asarray(ids)) & (weight > 0),
            np.concatenate([patches for _, patches in cut]),
            packed_patch_xy(grids),
            np.concatenate(
                [seen_in(grid, shown) for grid, shown in zip(grids, question.regions, strict=True)]
            ),
            named_in([self._texts[token] for token in ids]),
        )

    def _step_weights(self, family: str, ids: list[int]) -> npt.NDArray[np.float64]:
        """Whether there is a box, or another, is one token among many; what `find` names is given, not learned."""
        in_box = self._within(ids, "<box>", "</box>")
        number = np.isin(ids, [*self.coordinate_ids, *self._tokenizer.encode(", ")])
        weights = np.where(in_box, np.where(number, COORDINATE_WEIGHT, BRACKET_WEIGHT), 1.0)
        if family == FIND:
            weights[self._within(ids, "<ref>", "</ref>")] = 0.0
        elif family == COMPARE:
            weights[~self._within(ids, ", ", "\n")] = 0.0
        return weights

    def _coordinates(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return self._within(ids, "<box>", "</box>") & np.isin(ids, self.coordinate_ids)

    def _within(
        self, ids: Sequence[int] | npt.NDArray[np.int64], opening: str, closing: str
    ) -> npt.NDArray[np.bool_]:
        """Which tokens lie after an opening token and up to its closing one."""
        (begins,), (ends,) = self._tokenizer_ids(opening), self._tokenizer_ids(closing)
        inside, found = False, []
        for token in ids:
            found.append(inside)
            inside = token == begins or (inside and token != ends)
        return np.asarray(found, np.bool_)

    def _tokenizer_ids(self, text: str) -> list[int]:
        return [self._tokenizer.special_id(text)] if text.startswith("<") else self._tokenizer.encode(text)


def cut_patches(image: Image.Image) -> tuple[PatchGrid, npt.NDArray[np.uint8]]:
    """The picture resized as upstream does, as [P, 768] uint8 in packed order."""
    return packed(resized(image))


def resized(image: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, 3] at the size of the nano model's inputs."""
    height, width = target_size(image)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def packed(pixels: npt.NDArray[np.uint8]) -> tuple[PatchGrid, npt.NDArray[np.uint8]]:
    """[H, W, 3] as [P, 768] in packed order; unlike the runtime's this keeps uint8, a quarter of the bytes."""
    grid = PatchGrid.from_pixels(*pixels.shape[:2], patch_size=PATCH)
    rows = pixels.reshape(grid.rows, PATCH, grid.cols, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return grid, rows.reshape(grid.patches, -1)[pack_order(grid)]


def seen_in(grid: PatchGrid, regions: Sequence[Region]) -> npt.NDArray[np.int64]:
    """The thing that covers most of each visual token, row-major: colour, shape (0: none) and box in hundredths."""
    rows, cols = grid.merged
    seen = np.zeros((rows * cols, 6), np.int64)
    most = np.full(rows * cols, MIN_COVER)
    for region in regions:
        x1, y1, x2, y2 = (edge / 1000 for edge in region.box)
        across = _overlap(x1 * cols, x2 * cols, cols)
        cover = (_overlap(y1 * rows, y2 * rows, rows)[:, None] * across).reshape(-1)
        better = cover > most
        most[better] = cover[better]
        colour, shape = region.name.split()
        kind = COLOUR_NAMES.index(colour) + 1, SHAPES.index(shape) + 1
        seen[better] = [*kind, *(edge // BOX_STEP for edge in region.box)]
    return seen


def named_in(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Colour and shape (0: not said) that a name, from its last token to the end of its first box, is about."""
    named = np.zeros((len(texts), 2), np.int64)
    token_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    for found in NAME.finditer("".join(texts)):
        colour, shape = found["colour"], found["shape"]
        about = COLOUR_NAMES.index(colour) + 1 if colour else 0, SHAPES.index(shape) + 1 if shape else 0
        named[token_of[found.end("name") - 1 : found.end()]] = about
    return named


def _overlap(start: float, end: float, cells: int) -> npt.NDArray[np.float64]:
    """How much of each unit cell lies between start and end."""
    left = np.arange(cells)
    inside: npt.NDArray[np.float64] = np.minimum(end, left + 1) - np.maximum(start, left)
    return inside.clip(0)


def collate(samples: list[Sample], next_index: int, pad_to: int = 32) -> Batch:
    """Pads on the right; padding is causal text of weight 0, which no real token sees."""
    longest = max(len(sample.ids) for sample in samples)
    size = -(-longest // pad_to) * pad_to
    ids = np.zeros((len(samples), size), np.int64)
    positions = np.zeros((len(samples), 3, size), np.int64)
    positions[:, 0] = np.arange(size) + 1_000_000  # a t of its own: not within any picture
    is_visual = np.zeros((len(samples), size), np.bool_)
    weight = np.zeros((len(samples), size), np.float32)
    is_coordinate = np.zeros((len(samples), size), np.bool_)
    named = np.zeros((len(samples), size, 2), np.int64)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids[row, :length], is_visual[row, :length] = sample.ids, sample.is_visual
        positions[row, :, :length], weight[row, :length] = sample.position_ids, sample.weight
        is_coordinate[row, :length], named[row, :length] = sample.is_coordinate, sample.named
    return Batch(
        tuple(sample.family for sample in samples),
        ids,
        positions,
        is_visual,
        weight,
        is_coordinate,
        np.concatenate([sample.patches for sample in samples]),
        np.concatenate([sample.xy for sample in samples]),
        np.concatenate([sample.seen for sample in samples]),
        named,
        next_index,
    )


def draw_question(family: str, seed: str, index: int) -> Question:
    """A scene's question, or one of the training's own."""
    if family in FAMILIES:
        return make_question(family, seed, index)
    return TRAINING_FAMILIES[family](Random(f"{seed}/{family}/{index}"))


def draw_family(index: int, seed: str, mix: Mapping[str, float]) -> str:
    """The family of the index-th sample of a seed."""
    return Random(f"{seed}:{index}").choices(list(mix), weights=list(mix.values()))[0]


def batches(
    tokenizer: Path, seed: str, start: int, mix: Mapping[str, float], tokens_per_batch: int, stride: int = 1
) -> Iterator[Batch]:
    """Endless batches of about `tokens_per_batch` padded tokens, each of samples of like length."""
    encoder, index = Encoder(tokenizer), start
    while True:
        pool: list[Sample] = []
        for _ in range(POOL):
            family = draw_family(index, seed, mix)
            pool.append(encoder.sample(draw_question(family, seed, index), Random(f"{seed}|{index}")))
            index += stride
        pool.sort(key=lambda sample: len(sample.ids))
        groups: list[list[Sample]] = [[]]
        for sample in pool:
            if (len(groups[-1]) + 1) * len(sample.ids) > tokens_per_batch:
                groups.append([])
            groups[-1].append(sample)
        Random(index).shuffle(groups)
        for group in groups:
            yield collate(group, index)


class Feeder:
    """What a generator function of batches gives, made in a process of its own."""

    def __init__(self, source: Callable[..., Iterator[Batch]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue: Queue[Batch] = context.Queue(maxsize=24)
        self._process = context.Process(target=_feed, args=(self._queue, source, arguments), daemon=True)
        self._process.start()

    def __next__(self) -> Batch:
        return self._queue.get()

    def close(self) -> None:
        self._process.terminate()


def _feed(queue: Queue[Batch], source: Callable[..., Iterator[Batch]], arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    for batch in source(*arguments):
        while parent is not None and parent.is_alive():  # a killed training leaves nothing behind
            try:
                queue.put(batch, timeout=5)
                break
            except Full:
                continue
        else:
            return
