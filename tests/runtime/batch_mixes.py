"""Random mixes of text and pictures, answered alone and together, and how far the logits are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.patch_grid import PatchGrid, packed_patch_xy
from neo_edge.positions import SequenceLayout, layout
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.backend import Backend, DecoderInputs, DecoderState
from neo_edge_runtime.batch_session import BatchRow, BatchSession
from neo_edge_runtime.decoder_inputs import EmbeddedTokens
from neo_edge_runtime.session import Session

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MixedPrompt:
    """A prompt and the tokens that follow it, whatever the model would choose."""

    ids: npt.NDArray[np.int64]  # [S]
    layout: SequenceLayout
    visual_tokens: npt.NDArray[np.generic]  # [tokens of the pictures, hidden]
    forced: list[int]


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences of the logits from those of the prompts alone."""

    padded_prefill: float  # every position, all prompts in one run, the shorter ones padded
    padded_decode: float  # behind it, all of them at once
    decode: float  # in a `BatchSession` that sequences join and leave
    prompts: int  # in the mix
    images: int

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(self.padded_prefill, self.padded_decode, self.decode)


def mix_differences(backend: Backend, tokens: SpecialTokens, seed: int) -> Differences:
    """One mix of two to six prompts.

    Args:
        backend: what computes; its vocabulary must have ids below `tokens.img_context` for text.
        tokens: its special tokens.
        seed: of lengths, texts, pictures, tokens that follow, and of who joins when.
    """
    rng = np.random.default_rng(seed)
    prompts = [random_prompt(backend, tokens, rng) for _ in range(rng.integers(2, 7))]
    alone = [_alone(backend, prompt) for prompt in prompts]
    padded = _padded(backend, prompts)
    joined = _joined(backend, prompts, rows=int(rng.integers(1, len(prompts) + 1)))
    sizes = [len(prompt.ids) for prompt in prompts]
    return Differences(
        padded_prefill=max(
            _worst(found[:size], expected[:size])
            for found, expected, size in zip(padded, alone, sizes, strict=True)
        ),
        padded_decode=max(
            _worst(found[size:], expected[size : len(found)])
            for found, expected, size in zip(padded, alone, sizes, strict=True)
        ),
        decode=max(
            _worst(found, expected[size:]) for found, expected, size in zip(joined, alone, sizes, strict=True)
        ),
        prompts=len(prompts),
        images=sum(int((np.diff(prompt.layout.is_visual.astype(int)) == 1).sum()) for prompt in prompts),
    )


def random_prompt(backend: Backend, tokens: SpecialTokens, rng: np.random.Generator) -> MixedPrompt:
    """Text with up to three pictures in it; one in eight is so long that the cache grows for it."""

    def text(most: int) -> list[int]:
        ids: list[int] = rng.integers(0, tokens.img_context - 8, rng.integers(1, most)).tolist()
        return ids

    ids = text(250 if rng.random() < 0.125 else 30)
    grids = [PatchGrid(*(2 * rng.integers(1, 5, 2)).tolist()) for _ in range(rng.integers(0, 4))]
    for grid in grids:
        ids += [tokens.img_start, *[tokens.img_context] * grid.visual_tokens, tokens.img_end, *text(10)]
    patches = rng.uniform(-1, 1, (sum(grid.patches for grid in grids), 768)).astype(np.float32)
    return MixedPrompt(
        ids=np.array(ids),
        layout=layout(ids, grids, tokens),
        visual_tokens=backend.encode_patches(patches, packed_patch_xy(grids)),
        forced=text(9),
    )


def padded_inputs(backend: Backend, prompts: list[MixedPrompt], *, last_only: bool = False) -> DecoderInputs:
    """A prefill of all prompts in one run, logits of every position or of each one's last."""
    batch, longest = len(prompts), max(len(prompt.ids) for prompt in prompts)
    last = np.array([[len(prompt.ids) - 1] for prompt in prompts])
    inputs = DecoderInputs(
        inputs_embeds=np.zeros(
            (batch, longest, backend.token_embedding.shape[1]), backend.traits.embedding_dtype
        ),
        position_ids=np.zeros((batch, 3, longest), np.int32),
        visible_length=np.ones((batch, longest), np.int32),  # the least that a padded place may see
        write_index=np.zeros(batch, np.int32),
        logits_index=(last if last_only else np.tile(np.arange(longest), (batch, 1))).astype(np.int32),
    )
    for row, prompt in enumerate(prompts):
        size = len(prompt.ids)
        embeds = EmbeddedTokens(backend, prompt.ids, prompt.layout.is_visual, prompt.visual_tokens)
        inputs.inputs_embeds[row, :size] = embeds.rows(0, size)
        inputs.position_ids[row, :, :size] = prompt.layout.position_ids
        inputs.visible_length[row, :size] = prompt.layout.visible_length
    return inputs


def _alone(backend: Backend, prompt: MixedPrompt) -> Logits:
    """[S + forced, V]: of every position of the prompt, then behind each token that follows."""
    with Session(backend) as session:
        prefilled = session.prefill(prompt.ids, prompt.layout, prompt.visual_tokens, all_logits=True)
        return np.concatenate([prefilled, *(session.decode(token)[None] for token in prompt.forced)])


def _joined(backend: Backend, prompts: list[MixedPrompt], *, rows: int) -> list[Logits]:
    """[forced, V] of each: every prompt joins when there is a place, and leaves behind its last token."""
    found: list[list[Logits]] = [[] for _ in prompts]
    waiting = list(enumerate(prompts))
    running: dict[BatchRow, tuple[int, list[int]]] = {}
    with BatchSession(backend, rows=rows) as batch:
        while waiting or running:
            while waiting and len(running) < rows:
                number, prompt = waiting.pop(0)
                with Session(backend) as session:
                    session.prefill(prompt.ids, prompt.layout, prompt.visual_tokens)
                    running[batch.join(session)] = number, list(prompt.forced)
            logits = batch.decode({row: forced.pop(0) for row, (_, forced) in running.items()})
            for row_logits, (row, (number, forced)) in zip(logits, list(running.items()), strict=True):
                found[number].append(row_logits)
                if not forced:
                    batch.leave(row)
                    del running[row]
    return [np.stack(logits) for logits in found]


def _padded(backend: Backend, prompts: list[MixedPrompt]) -> list[Logits]:
    """[S + steps, V] of each: one prefill run of them all, then as many steps as every one has tokens for."""
    sizes = np.array([len(prompt.ids) for prompt in prompts])
    steps = min(len(prompt.forced) for prompt in prompts)
    state = backend.new_state(batch=len(prompts), capacity=int(sizes.max()) + steps)
    prefilled = state.run(padded_inputs(backend, prompts)).copy()
    found = [[prefilled[row, :size]] for row, size in enumerate(sizes.tolist())]
    for step in range(steps):
        logits = _step(backend, state, prompts, sizes, step)
        for row in range(len(prompts)):
            found[row].append(logits[row])
    state.close()
    return [np.concatenate(logits) for logits in found]


def _step(
    backend: Backend, state: DecoderState, prompts: list[MixedPrompt], sizes: npt.NDArray[np.int64], step: int
) -> Logits:
    positions = np.zeros((len(prompts), 3, 1), np.int32)
    positions[:, 0, 0] = [prompt.layout.next_t + step for prompt in prompts]
    inputs = DecoderInputs(
        inputs_embeds=backend.token_embedding[[prompt.forced[step] for prompt in prompts]][:, None],
        position_ids=positions,
        visible_length=(sizes + step + 1)[:, None].astype(np.int32),
        write_index=(sizes + step).astype(np.int32),
        logits_index=np.zeros((len(prompts), 1), np.int32),
    )
    return state.run(inputs).copy()


def _worst(found: Logits, expected: Logits) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())
