"""A prompt that was checked against context and memory, and is ready to run behind a session."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.positions import layout
from neo_edge_runtime.prompt_assembly import AskedVideos
from neo_edge_runtime.vision_encoder import encoding_need

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from neo_edge.options import SamplingOptions
    from neo_edge.positions import SequenceLayout
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.batch_request import Request
    from neo_edge_runtime.constraint_matching import CompiledConstraint
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.preprocessing import SizedImage
    from neo_edge_runtime.prompt_assembly import PromptAssembly
    from neo_edge_runtime.session import Session
    from neo_edge_runtime.text_stream import Decodes


@dataclass(frozen=True)
class PreparedRequest:
    """Everything that an answer depends on, checked and ready to run."""

    backend: Backend
    session: Session
    cached_tokens: int  # tokens that stand in the session's cache before these
    input_ids: npt.NDArray[np.integer]  # [S] tokens to append to the session
    layout: SequenceLayout  # of these tokens
    images: Sequence[SizedImage]
    earlier_ids: Sequence[int]  # tokens of the conversation before these
    options: SamplingOptions
    eos: tuple[int, ...]
    tokenizer: Decodes | None
    preparation_s: float  # seconds already spent on this request
    warnings: tuple[str, ...] = ()  # for the answer
    constraint: CompiledConstraint | None = None  # None: the answer is free


def first_request(
    asked: Request, backend: Backend, session: Session, prompts: PromptAssembly, *, started: float
) -> PreparedRequest:
    """Reads the pictures of a question that opens a session, and writes its prompt; errors as `Model.stream`."""
    warnings: tuple[str, ...] = ()
    if isinstance(asked.prompt, str):
        pictures = prompts.pictures(
            asked.prompt,
            asked.images,
            asked.frames,
            asked.video_duration_s,
            asked.fps,
            AskedVideos(asked.videos, asked.frame_sampling, asked.video_limits),
        )
        images, warnings = pictures.sized, pictures.warnings
        ids = prompts.first(pictures.text, images, asked.system)
    else:
        if asked.frames is not None or asked.system is not None or asked.videos:
            raise InputError(
                "a prompt of token ids already holds what frames, videos and system would add: leave them out"
            )
        images = prompts.size(asked.images)
        ids = prompts.expand(asked.prompt, images)
    return make_request(
        backend,
        session,
        prompts,
        ids=ids,
        images=images,
        earlier_ids=(),
        options=asked.options,
        started=started,
        warnings=warnings,
        constraint=asked.constraint,
    )


def make_request(
    backend: Backend,
    session: Session,
    prompts: PromptAssembly,
    *,
    ids: Sequence[int],
    images: Sequence[SizedImage],
    earlier_ids: Sequence[int],
    options: SamplingOptions | None,
    started: float,
    warnings: tuple[str, ...] = (),
    constraint: Constraint | None = None,
) -> PreparedRequest:
    """Lays the new tokens out behind the session and checks context and memory, before anything runs.

    Args:
        backend: what encodes pictures.
        session: where the tokens are appended.
        prompts: the model's rules.
        ids: [S] tokens that the session lacks, image context tokens expanded.
        images: pictures of these tokens, in order.
        earlier_ids: tokens that the session holds.
        options: None: the protocol's.
        started: `time.perf_counter()` when work on the request began.
        warnings: of the pictures, for the answer.
        constraint: what the answer may be; None: anything.

    Raises:
        PromptError, InputError: the pieces do not fit each other.
        ConstraintError, MissingExtraError: the constraint cannot be held to.
        ContextOverflowError, MemoryBudgetError: they do not fit the session.
    """
    options = prompts.protocol.sampling if options is None else options
    if options.stop and prompts.tokenizer is None:
        raise InputError("stop strings need a tokenizer, and the bundle has none: leave them out")
    compiled = None if constraint is None else prompts.constraints.compile(constraint)
    input_ids = np.array(ids, np.int64)
    piece = layout(
        input_ids,
        [image.grid for image in images],
        prompts.tokens,
        start_length=session.length,
        start_t=session.next_t,
    )
    session.preflight(piece, beside=encoding_need(backend, images))
    return PreparedRequest(
        backend=backend,
        session=session,
        cached_tokens=session.length,
        input_ids=input_ids,
        layout=piece,
        images=images,
        earlier_ids=earlier_ids,
        options=options,
        eos=prompts.tokens.eos,
        tokenizer=prompts.tokenizer,
        preparation_s=time.perf_counter() - started,
        warnings=warnings,
        constraint=compiled,
    )
