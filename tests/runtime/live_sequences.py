"""Random sequences of frames and questions, watched live and prefilled at once, and how far the logits are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.positions import layout
from neo_edge.prompt import Message, encode_chat, encode_watched_question, place_frames, place_images
from neo_edge_runtime import LiveSession, Model
from neo_edge_runtime.vision_encoder import encode_images

Picture = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
QUESTIONS = ("where?", "", "\n what is this\n", "is the ball in the box or beside it?")


@dataclass(frozen=True)
class Watched:
    """One sequence that was watched."""

    worst: float  # largest absolute difference of a logit from those of full prefills
    questions: int
    frames: int
    windows_cut: int


def random_picture(rng: np.random.Generator) -> Picture:
    """One to six visual tokens."""
    height, width = 32 * rng.integers(1, [3, 4])
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def watch_randomly(model: Model, seed: int) -> Watched:
    """Two to thirteen frames or questions; windows of `recompute` overflow, those of `drop` do not.

    Args:
        model: with a tokenizer, and pixel limits that leave a picture of 32x32 as it is.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    recompute = bool(rng.random() < 0.5)
    system = str(rng.choice(["", "be brief"]))
    live = model.watch(
        max_frames=int(rng.integers(1, 6)) if recompute else 16,
        every=None,
        prompt=system,
        policy="recompute" if recompute else "drop",
    )
    frames: list[tuple[float, Picture]] = []
    worst, time_s, questions = 0.0, 0.0, 0
    for step in range(int(rng.integers(2, 14))):
        if step and rng.random() < 0.4:
            own = [random_picture(rng) for _ in range(rng.integers(0, 2))]
            seen = frames[-live.stats().frames_in_window :] if frames else []
            question, forced = str(rng.choice(QUESTIONS)), rng.integers(0, 256, 4).tolist()
            found = live_logits(live, question, own, forced)
            expected = full_logits(model, seen, question, own, forced, system=system)
            worst = max(worst, float(np.abs(found - expected).max()))
            questions += 1
        else:
            time_s += float(rng.choice([0.0, 0.04, 0.5, 61.0]))
            frames.append((time_s, random_picture(rng)))
            assert live.add(frames[-1][1], time_s) == "used"
    cut = live.stats().windows_cut
    live.close()
    return Watched(worst, questions, len(frames), cut)


def live_logits(live: LiveSession, question: str, images: Sequence[Picture], forced: Sequence[int]) -> Logits:
    """[S + forced, V]: behind every token of a question, then behind tokens that follow, whatever was chosen.

    Runs what the answer would run, and closes the answer, which takes it back.
    """
    with live.ask(question, images) as answer:
        request = answer.request
        visual_tokens = encode_images(request.backend, request.images)
        rows = request.session.prefill(request.input_ids, request.layout, visual_tokens, all_logits=True)
        return np.concatenate([rows, *(request.session.decode(token)[None] for token in forced)])


def full_logits(
    model: Model,
    frames: Sequence[tuple[float, Picture]],
    question: str,
    images: Sequence[Picture],
    forced: Sequence[int],
    *,
    system: str,
) -> Logits:
    """The same rows when everything goes through an empty session at once, as a question about frames does."""
    assert model.tokenizer is not None
    prompts = model._prompts
    sized = [*(prompts.size_frame(picture) for _, picture in frames), *prompts.size(images)]
    asked = place_images(question, len(images))
    text = place_frames(asked, [time_s for time_s, _ in frames]) if frames else asked
    ids = encode_chat(
        model.tokenizer,
        [Message("user", text, len(sized))],
        [image.grid.visual_tokens for image in sized],
        system=system,
    )
    laid_out = layout(ids, [image.grid for image in sized], model.tokens)
    with model.session() as session:
        rows = session.prefill(np.array(ids), laid_out, encode_images(model._backend, sized), all_logits=True)
        rows = np.concatenate([rows, *(session.decode(token)[None] for token in forced)])
    counts = [image.grid.visual_tokens for image in sized[len(frames) :]]
    return rows[-len(forced) - len(encode_watched_question(model.tokenizer, asked, counts)) :]
