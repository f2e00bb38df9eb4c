"""A session that watches: frames enter its cache once, and a question costs its own tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.generation import Stream
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.live.stats import LiveStats
    from neo_edge_runtime.prompt_assembly import PromptAssembly
    from neo_edge_runtime.session import Session

Policy = Literal["drop", "recompute"]
FrameFate = Literal["used", "waiting", "skipped"]


class LiveSession:
    """Frames in, answers out, over one cache of bounded size. Threads may share it.

    with model.watch(max_frames=64, every="0.5s") as live:
        live.add(picture, time_s=0.0)
        print(live.ask("Where is the red ball?").finish().text)

    One answer is decoded at a time: a new question ends the one before it, which then has `stop_reason` `cancelled`.
    A frame that comes meanwhile waits; a newer one takes its place. The one that waits enters with the next `add`, or
    before the next question.
    """

    def __init__(
        self,
        backend: Backend,
        session: Session,
        prompts: PromptAssembly,
        *,
        max_frames: int = 64,
        every: str | float | None = "0.5s",
        prompt: str | None = None,
        policy: Policy = "drop",
    ) -> None:
        """Takes the session over; arguments and errors as `Model.watch`."""
        raise NotImplementedError

    def add(self, image: ImageSource, time_s: float) -> FrameFate:
        """Shows a frame.

        Args:
            image: what `load_image` takes; it may be overwritten afterwards.
            time_s: when it was seen, in seconds; not before the frame that was taken last.

        Returns:
            `used`: it stands in the cache. `waiting`: an answer is being decoded, and it enters afterwards unless a
            newer one comes. `skipped`: less than `every` has passed.

        Raises:
            ImageError, InputError: no picture, or no time, or one before that of an earlier frame; nothing changed.
            MemoryBudgetError, ContextOverflowError: it does not fit; it was not taken.
            SessionClosedError: the session is closed.
        """
        raise NotImplementedError

    def ask(
        self, question: str, images: Sequence[ImageSource] = (), *, options: SamplingOptions | None = None
    ) -> Stream:
        """Asks about what was seen; the answer is made while the stream is iterated, and leaves no trace.

        Args:
            question: may hold `<image>` places for `images`.
            images: pictures of this question alone.
            options: sampling; None: the protocol's.

        Raises:
            ImageError, PromptError, InputError: the question is not well formed.
            ContextOverflowError, MemoryBudgetError: it does not fit behind what is watched.
            SessionClosedError: the session is closed.
        """
        raise NotImplementedError

    def stats(self) -> LiveStats:
        """How things are now; may be asked at any time, also of a closed session."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends an answer that is being decoded and gives the cache's memory back; may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
