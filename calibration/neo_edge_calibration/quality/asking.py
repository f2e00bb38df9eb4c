"""Asks questions of several variants, and compares what they say and what they think of each token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neo_edge.errors import ContextOverflowError, TokenizerError
from neo_edge.tokenizer import load_tokenizer
from neo_edge.tokens import IM_END
from neo_edge_calibration.evaluation import as_request
from neo_edge_calibration.quality.comparison import Answered, Compared, Comparison
from neo_edge_calibration.quality.logits import divergence, forced_logits, log_probabilities, surprise
from neo_edge_calibration.scoring import is_right
from neo_edge_runtime.batch_session import BatchRow, BatchSession
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.model import Model
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.session import Checkpoint, Session
from neo_edge_runtime.text_stream import TextStream
from neo_edge_runtime.vision_encoder import encode_images

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.tokenizer import Tokenizer
    from neo_edge_calibration.question import Question
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.prepacked_build import PrepackedMode
    from neo_edge_runtime.request import PreparedRequest

PROTOCOL = "edge"  # greedy: answers that are drawn would differ without any damage
_CACHE_BYTES = 512 << 20  # that the caches of one variant's questions may take together

Tokens = tuple[int, ...]


@dataclass
class _Asked:
    """A variant behind a question's prompt."""

    session: Session
    first: npt.NDArray[np.float32]  # [V] logits of the answer's first token
    start: Checkpoint


class Interviewer:
    """Variants of a bundle, loaded; the first is the reference."""

    def __init__(
        self,
        bundle: Bundle,
        variants: Sequence[str],
        *,
        threads: int | None,
        prepacked: Sequence[PrepackedMode] | None = None,
    ) -> None:
        """Loads them.

        Args:
            bundle: an opened bundle.
            variants: of it; one may be there twice.
            threads: as `neo_edge.load` has it.
            prepacked: of each variant, as `neo_edge.load` has it; None: its default.

        Raises:
            TokenizerError: the bundle has no tokenizer.
            NeoEdgeError: as `neo_edge.load`.
        """
        tokenizer = load_tokenizer(bundle.root) if bundle.manifest.tokenizer else None
        if tokenizer is None:
            raise TokenizerError(
                f"the bundle {bundle.root} has no tokenizer, so nothing can be asked in words: export a checkpoint "
                "that holds tokenizer.json"
            )
        self._tokenizer: Tokenizer = tokenizer
        self._backends: list[Backend] = []
        with ExitStack() as opened:
            modes: Sequence[PrepackedMode] = ["auto" for _ in variants] if prepacked is None else prepacked
            for name, mode in zip(variants, modes, strict=True):
                backend = OrtBackend(bundle, name, threads=threads, prepacked=mode)
                opened.callback(backend.close)
                self._backends.append(backend)
            self._close = opened.pop_all().close
        self._model = Model(
            self._backends[0], tokens=bundle.manifest.special_tokens, tokenizer=tokenizer, protocol=PROTOCOL
        )

    def ask(self, questions: Sequence[Question], known: Sequence[Tokens] | None = None) -> list[Comparison]:
        """Asks each question of each variant, in a conversation of its own.

        How many decode together depends on the questions alone, and so does every figure.

        Args:
            questions: at least one.
            known: the reference's answer to each, where it is known; else it is asked.
        """
        requests = [self._prepared(question) for question in questions]
        found: list[Comparison] = []
        size = self._group_size(requests)
        for start in range(0, len(questions), size):
            part = slice(start, start + size)
            found += self._ask_group(questions[part], requests[part], known[part] if known else None)
        return found

    def close(self) -> None:
        """Gives the weights' memory back."""
        self._close()

    def __enter__(self) -> Interviewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepared(self, question: Question) -> PreparedRequest:
        asked = as_request(question)
        return self._model.stream(
            asked.prompt,
            asked.images,
            asked.frames,
            video_duration_s=asked.video_duration_s,
            fps=asked.fps,
        ).request

    def _group_size(self, requests: Sequence[PreparedRequest]) -> int:
        decoder = self._backends[0].traits.config.decoder
        longest = max(len(request.input_ids) + request.options.max_new_tokens for request in requests)
        # Each sequence stands in a session and in the batch; counted in float32, whatever the variants store.
        each = 2 * cache_bytes(decoder, batch=1, capacity=longest, element_bytes=4)
        return max(1, _CACHE_BYTES // each)

    def _ask_group(
        self,
        questions: Sequence[Question],
        requests: Sequence[PreparedRequest],
        known: Sequence[Tokens] | None,
    ) -> list[Comparison]:
        asked = [[_prefilled(backend, request) for request in requests] for backend in self._backends]
        try:
            answers = [
                list(known) if known is not None and number == 0 else greedy_answers(backend, rows, requests)
                for number, (backend, rows) in enumerate(zip(self._backends, asked, strict=True))
            ]
            return [
                self._compare(question, of_question, said)
                for question, of_question, said in zip(
                    questions, zip(*asked, strict=True), zip(*answers, strict=True), strict=True
                )
            ]
        finally:
            for one in (one for rows in asked for one in rows):
                one.session.close()

    def _compare(self, question: Question, asked: Sequence[_Asked], answers: Sequence[Tokens]) -> Comparison:
        right = [is_right(question, self._text(answer)) for answer in answers]
        said, true = self._forced_part(answers[0]), self._true_answer(question)
        surprises, distances = self._forced(asked, said)
        if true != said:  # mostly they are the same tokens, and then they were fed already
            for one in asked:
                one.session.rewind(one.start)
            surprises = [self._surprise(one, true) for one in asked]
        reference, *others = map(Answered, right, surprises)
        return Comparison(
            family=question.family,
            digest=_digest(question),
            true_tokens=len(true),
            reference_answer=answers[0],
            reference=reference,
            variants=tuple(
                Compared(other.right, other.surprise, kl, agreed)
                for other, (kl, agreed) in zip(others, distances, strict=True)
            ),
        )

    def _forced(
        self, asked: Sequence[_Asked], tokens: Tokens
    ) -> tuple[list[float], list[tuple[npt.NDArray[np.float64], int]]]:
        """Surprise of each variant, and KL and agreement of each but the first, over the first one's answer."""
        surprises, done = [0.0] * len(asked), 0
        kl: list[list[npt.NDArray[np.float64]]] = [[] for _ in asked[1:]]
        agreed = [0] * len(kl)
        forced = [forced_logits(one.session, one.first, tokens, self._model.tokens) for one in asked]
        for logits in zip(*forced, strict=True):
            thought = [log_probabilities(rows) for rows in logits]
            best = logits[0].argmax(axis=1)
            fed = tokens[done : done + len(best)]
            done += len(best)
            for number, rows in enumerate(thought):
                surprises[number] += surprise(rows, fed)
            for number, rows in enumerate(thought[1:]):
                kl[number].append(divergence(thought[0], rows))
                agreed[number] += int((logits[number + 1].argmax(axis=1) == best).sum())
        return surprises, [(np.concatenate(pieces), count) for pieces, count in zip(kl, agreed, strict=True)]

    def _surprise(self, asked: _Asked, true: Tokens) -> float:
        total, done = 0.0, 0
        for logits in forced_logits(asked.session, asked.first, true, self._model.tokens):
            total += surprise(log_probabilities(logits), true[done : done + len(logits)])
            done += len(logits)
        return total

    def _true_answer(self, question: Question) -> Tokens:
        """As the model would write it: with its steps where the question has them, and the end."""
        return (*self._tokenizer.encode(question.response or question.answer), *self._end())

    def _end(self) -> Tokens:
        eos = self._model.tokens.eos
        usual = self._tokenizer.find_id(IM_END)
        return (usual,) if usual is not None and usual in eos else eos[:1]

    def _forced_part(self, answer: Tokens) -> Tokens:
        """Up to the first image token: it would need a picture behind it."""
        image = self._model.tokens.img_context
        return answer[: answer.index(image) + 1] if image in answer else answer

    def _text(self, answer: Tokens) -> str:
        stream = TextStream(self._tokenizer)
        eos = self._model.tokens.eos
        return "".join([*(stream.push(token) for token in answer if token not in eos), stream.finish()])


def greedy_answers(
    backend: Backend, asked: Sequence[_Asked], requests: Sequence[PreparedRequest]
) -> list[Tokens]:
    """The likeliest token again and again, all answers in one batch; the end is part of an answer.

    The sessions stay behind their prompts.
    """
    answers = [[int(one.first.argmax())] for one in asked]
    with BatchSession(backend, rows=len(asked)) as batch:
        rows: dict[BatchRow, int] = {}
        for number, (one, request) in enumerate(zip(asked, requests, strict=True)):
            if _goes_on(answers[number], request):
                rows[batch.join(one.session)] = number
        while rows:
            for row in [row for row in rows if not _has_room(batch, row)]:
                batch.leave(row)
                del rows[row]
            if not rows:
                break
            logits = batch.decode({row: answers[number][-1] for row, number in rows.items()})
            for (row, number), row_logits in zip(list(rows.items()), logits, strict=True):
                answers[number].append(int(row_logits.argmax()))
                if not _goes_on(answers[number], requests[number]):
                    batch.leave(row)
                    del rows[row]
    return [tuple(answer) for answer in answers]


def _goes_on(answer: Sequence[int], request: PreparedRequest) -> bool:
    return answer[-1] not in request.eos and len(answer) < request.options.max_new_tokens


def _has_room(batch: BatchSession, row: BatchRow) -> bool:
    try:
        batch.reserve(row)
    except ContextOverflowError:
        return False
    return True


def _prefilled(backend: Backend, request: PreparedRequest) -> _Asked:
    session = Session(backend)
    visual_tokens = encode_images(backend, request.images)
    first = session.prefill(request.input_ids, request.layout, visual_tokens)[-1]
    return _Asked(session, first, session.checkpoint)


def _digest(question: Question) -> bytes:
    found = hashlib.sha256(repr((question.family, question.kind, question.prompt, question.answer)).encode())
    for image in question.images:
        found.update(f"{image.mode} {image.size}".encode())
        found.update(image.tobytes())
    return found.digest()
