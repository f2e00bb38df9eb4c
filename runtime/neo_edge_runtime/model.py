"""The public face: a bundle, loaded, that answers questions."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from neo_edge.errors import SessionClosedError
from neo_edge.protocols import InferenceProtocol, get_protocol
from neo_edge_runtime.backend import Backend, FrameBackend
from neo_edge_runtime.batch_generation import BatchStream, OnError
from neo_edge_runtime.batch_preparation import prepare_requests, require_requests
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.batch_session import DEFAULT_BATCH_SIZE, BatchSession
from neo_edge_runtime.chat import Chat
from neo_edge_runtime.generation import Stream
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.prefill_plan import DEFAULT_CHUNK_TOKENS
from neo_edge_runtime.preprocessing import PixelLimits
from neo_edge_runtime.prompt_assembly import PromptAssembly, text_only_tokens
from neo_edge_runtime.request import first_request
from neo_edge_runtime.session import Session
from neo_edge_runtime.video_limits import VideoLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from neo_edge.config import ModelConfig
    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.options import SamplingOptions
    from neo_edge.tokenizer import Tokenizer
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.constraints import Constraint
    from neo_edge_runtime.image_input import ImageSource
    from neo_edge_runtime.live.session import LiveSession, Policy
    from neo_edge_runtime.request import PreparedRequest
    from neo_edge_runtime.video import Frame, VideoSource


class Model:
    """A loaded variant of a bundle. Threads may share it; each answer or conversation has a session of its own."""

    def __init__(
        self,
        backend: Backend,
        *,
        tokens: SpecialTokens | None,
        tokenizer: Tokenizer | None = None,
        protocol: str | InferenceProtocol = "edge",
        max_pixels: int | None = None,
        max_visual_tokens: int | None = None,
        memory_limit_bytes: int | None = None,
        max_context_tokens: int | None = None,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        upstream_image_rules: bool = False,
        video_limits: VideoLimits | None = None,
    ) -> None:
        """As `load`, over a backend that is open already; the model closes it."""
        config = backend.traits.config
        preset = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self._backend = backend
        self._budget = MemoryBudget.of(backend, memory_limit_bytes)
        self._max_context_tokens, self._chunk_tokens = max_context_tokens, chunk_tokens
        self._prompts = PromptAssembly(
            config=config,
            tokens=tokens or text_only_tokens(config),
            tokenizer=tokenizer,
            protocol=preset,
            limits=_pixel_limits(preset, config, max_pixels, max_visual_tokens),
            upstream_image_rules=upstream_image_rules,
            frame_limits=_pixel_limits(preset, config, max_pixels, max_visual_tokens, frame=True),
            video_limits=video_limits or VideoLimits(),
            frames_on_device=isinstance(backend, FrameBackend),
        )
        self._closed = False

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._backend.traits.config

    @property
    def protocol(self) -> InferenceProtocol:
        """How questions are asked, unless a call says otherwise."""
        return self._prompts.protocol

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The bundle's tokenizer; None: prompts must be token ids."""
        return self._prompts.tokenizer

    @property
    def tokens(self) -> SpecialTokens:
        """Ids of the tokens that frame images and end answers."""
        return self._prompts.tokens

    def generate(
        self,
        prompt: str | Sequence[int] | npt.NDArray[np.integer],
        images: Sequence[ImageSource] = (),
        frames: Sequence[Frame] | None = None,
        *,
        video_duration_s: float | None = None,
        fps: float | None = None,
        videos: Sequence[VideoSource] = (),
        frame_sampling: FrameSampling | None = None,
        video_limits: VideoLimits | None = None,
        system: str | None = None,
        options: SamplingOptions | None = None,
        constraint: Constraint | None = None,
    ) -> Completion:
        """Asks, waits and gives the answer; arguments and errors as `stream`."""
        return self.stream(
            prompt,
            images,
            frames,
            video_duration_s=video_duration_s,
            fps=fps,
            videos=videos,
            frame_sampling=frame_sampling,
            video_limits=video_limits,
            system=system,
            options=options,
            constraint=constraint,
        ).finish()

    def stream(
        self,
        prompt: str | Sequence[int] | npt.NDArray[np.integer],
        images: Sequence[ImageSource] = (),
        frames: Sequence[Frame] | None = None,
        *,
        video_duration_s: float | None = None,
        fps: float | None = None,
        videos: Sequence[VideoSource] = (),
        frame_sampling: FrameSampling | None = None,
        video_limits: VideoLimits | None = None,
        system: str | None = None,
        options: SamplingOptions | None = None,
        constraint: Constraint | None = None,
    ) -> Stream:
        """Asks and gives the answer as it is made.

        Pictures are read and the request is checked here; the model runs while the stream is iterated.

        Args:
            prompt: a question, put into the chat template; or token ids, taken as they are but for lone image
                context tokens, which become as many as their picture needs. `<image>` in a question says where a
                picture stands, and `<video>` where a video does; without them images come first, then videos.
            images: pictures, in the order of their places.
            frames: frames of one video, in the order of their times, instead of images and videos.
            video_duration_s: length of the video in seconds; with `fps` a sentence about the whole video is added.
            fps: frames per second at which the frames were taken.
            videos: video files (paths, bytes, open binary files) or `Video`s, in the order of their places; each
                brings the sentence about the whole video. Damaged ones give what is good of them, a `VideoWarning`
                and a line in the completion's `warnings`.
            frame_sampling: which frames of the files; None: the protocol's.
            video_limits: lower some of the model's.
            system: system prompt; None: the protocol's.
            options: sampling; None: the protocol's.
            constraint: `Choices`, `JsonSchema` or `Regex`: the answer can be nothing else; None: anything.

        Raises:
            ImageError: a picture cannot be read, or gives more than `max_visual_tokens`.
            VideoError: a video cannot be read, or is beyond the limits.
            MissingExtraError: a video file, and PyAV is not installed; a constraint, and llguidance is not.
            PromptError, InputError: the arguments do not fit each other.
            ConstraintError: the constraint is none, or cannot be held to.
            TokenizerError: a question in words, and the bundle has no tokenizer.
            ContextOverflowError, MemoryBudgetError: the request is too large; nothing was allocated.
            SessionClosedError: the model is closed.
        """
        asked = Request(
            prompt,
            images,
            frames,
            video_duration_s,
            fps,
            system,
            options,
            videos=videos,
            frame_sampling=frame_sampling,
            video_limits=video_limits,
            constraint=constraint,
        )
        request = self._prepare(asked, time.perf_counter())
        return Stream(request, lambda _answer, _prefilled: request.session.close())

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        options: SamplingOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        on_error: OnError = "raise",
    ) -> list[Completion]:
        """Asks several things, waits and gives the answers in the order of the requests.

            requests = [Request("What is this?", images=[path]) for path in paths]
            for path, answer in zip(paths, model.generate_batch(requests)):
                print(path, answer.text)

        Arguments and errors as `stream_batch`.
        """
        return self.stream_batch(requests, options=options, batch_size=batch_size, on_error=on_error).finish()

    def stream_batch(
        self,
        requests: Sequence[Request],
        *,
        options: SamplingOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        on_error: OnError = "raise",
    ) -> BatchStream:
        """Asks several things and gives the answers as they are made; each equals the one it would get alone.

        All requests are checked and all their pictures read here (up to 3 bytes a pixel stay until the last answer);
        the model runs while the stream is iterated. `batch_size` answers decode together: a step reads the weights
        once for all of them. When one ends, the next request takes its place.

        Args:
            requests: what to ask; none give no answers.
            options: sampling of the requests that have none of their own; None: the protocol's. With a seed, each
                answer draws as if it were alone.
            batch_size: most answers at once; fewer where engines take fewer. Their caches are as long as the longest of
                them, and all count for `memory_limit_bytes`.
            on_error: `raise`: a request that cannot be asked raises here, before any runs, and one that fails as it
                runs ends the iteration. `return`: such a request gets a completion with `stop_reason` `error` and
                the typed `error`, and all others get their answers.

        Raises:
            NeoEdgeError: of the kinds that `stream` raises; the message begins with the request's name, or its
                number, counted from 0, and nothing has run. With `on_error="return"` only for a closed model, and for a
                package that is not installed.
            InputError: `batch_size` is below 1, something is no `Request`, or `on_error` is neither.
        """
        started = time.perf_counter()
        require_requests(requests, batch_size, on_error)
        names = [asked.name or f"request {number}" for number, asked in enumerate(requests)]
        batch_size = max(1, min(batch_size, len(requests), self._backend.traits.max_sequences or batch_size))
        batch = BatchSession(
            self._backend, rows=batch_size, budget=self._budget, max_context_tokens=self._max_context_tokens
        )
        prepared = prepare_requests(
            requests,
            names,
            lambda asked: self._prepare(replace(asked, options=asked.options or options), started),
            batch,
            batch_size,
            on_error=on_error,
            started=started,
        )
        return BatchStream(prepared, names, batch, batch_size, on_error=on_error)

    def chat(self, system: str | None = None) -> Chat:
        """A conversation that keeps its cache; `system` None is the protocol's system prompt.

        Raises:
            SessionClosedError: the model is closed.
        """
        return Chat(self._backend, self.session(), self._prompts, system=system)

    def watch(
        self,
        *,
        max_frames: int = 64,
        every: str | float | None = "0.5s",
        prompt: str | None = None,
        policy: Policy = "drop",
    ) -> LiveSession:
        """A session that frames are added to as they come, to be asked at any time; all as in `LiveSession`."""
        from neo_edge_runtime.live.session import LiveSession

        return LiveSession(
            self._backend,
            self.session(),
            self._prompts,
            max_frames=max_frames,
            every=every,
            prompt=prompt,
            policy=policy,
        )

    def session(self) -> Session:
        """An empty session, for those who feed token ids themselves; within this model's limits.

        Raises:
            SessionClosedError: the model is closed.
        """
        if self._closed:
            raise SessionClosedError("the model is closed: load the bundle again")
        return Session(
            self._backend,
            budget=self._budget,
            max_context_tokens=self._max_context_tokens,
            chunk_tokens=self._chunk_tokens,
        )

    def _prepare(self, asked: Request, started: float) -> PreparedRequest:
        return first_request(asked, self._backend, self.session(), self._prompts, started=started)

    def close(self) -> None:
        """Gives the weights' memory back; may be called twice."""
        self._closed = True
        self._backend.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pixel_limits(
    protocol: InferenceProtocol,
    config: ModelConfig,
    max_pixels: int | None,
    max_visual_tokens: int | None,
    *,
    frame: bool = False,
) -> PixelLimits:
    smallest, largest = (protocol.frame_pixel_limits if frame else protocol.pixel_limits)(config.vision)
    if max_pixels is not None:
        smallest, largest = min(smallest, max_pixels), max_pixels
    return PixelLimits(smallest, largest, max_visual_tokens)
