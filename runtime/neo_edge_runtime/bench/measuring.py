"""Measures a loaded variant: an image's stages, prefill and decoding, with others in turn where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neo_edge.errors import InputError
from neo_edge.progress import Progress, progress
from neo_edge.shown import shown
from neo_edge_runtime.bench.image_stages import STAGES, ImageStages
from neo_edge_runtime.bench.read_bandwidth import ReadBuffer
from neo_edge_runtime.bench.roofline import Bandwidth, prefill_operations
from neo_edge_runtime.bench.text_speed import TextRun, TextTest
from neo_edge_runtime.bench.timing import Clock, Contender, Seconds, SystemClock, interleave
from neo_edge_runtime.memory import peak_memory_bytes

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.backend import Backend

OURS = "neo_edge"


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    prompt_tokens: tuple[int, ...] = (320, 1024)  # each is a prefill; empty: none
    new_tokens: int = 64  # decoded a repetition
    depths: tuple[int, ...] = (0, 512)  # tokens in the cache before each of them
    repetitions: int = 5
    image_size: tuple[int, int] = (640, 480)  # width and height in pixels

    def __post_init__(self) -> None:
        _require("prompt tokens", self.prompt_tokens, least=1)
        _require("new tokens", (self.new_tokens,), least=1)
        _require("depths", self.depths, least=0)
        _require("repetitions", (self.repetitions,), least=1)
        _require("the picture's width and height", self.image_size, least=1)
        if not self.depths:
            raise InputError("depths is empty; give one or more, 0 for an empty cache")

    @property
    def tests(self) -> list[TextTest]:
        """Every row with text."""
        return [
            test
            for depth in self.depths
            for test in (
                *(TextTest("pp", tokens, depth) for tokens in self.prompt_tokens),
                TextTest("tg", self.new_tokens, depth),
            )
        ]


def _require(what: str, numbers: tuple[int, ...], *, least: int) -> None:
    wrong = [number for number in numbers if number < least]
    if wrong:
        raise InputError(f"{what}: {shown(wrong[0])} was given; it must be {least} or above")


@dataclass(frozen=True)
class GpuMeters:
    """What is asked of a GPU while a backend on it is measured."""

    used_before: int  # bytes that all programs used before the bundle was loaded
    used_bytes: Callable[[], int | None]  # the same now
    matrix_rate: Callable[[], float | None]  # operations a second of large matrix products; None: not known


class Rival(Protocol):
    """Another implementation of the same model."""

    def contenders(self, tokens: int, past: int) -> Mapping[str, Contender]:
        """Ways to run `tokens` at once behind `past` tokens, by name."""
        ...


@dataclass(frozen=True)
class TextRow:
    """One test's figures."""

    test: TextTest
    seconds: Seconds  # of the whole test, one entry a repetition
    share: Seconds | None = None  # decoding: bytes read a second over the machine's read bandwidth
    others: Mapping[str, Seconds] = field(default_factory=dict)  # their time over ours, by name
    operations: int | None = None  # of a prefill's matrix products and attention


@dataclass(frozen=True)
class Figures:
    """All that was measured."""

    image: Mapping[str, Seconds]  # by stage; empty: the model takes no images
    visual_tokens: int
    image_prompt_tokens: int
    rows: list[TextRow]
    bandwidth: Mapping[str, Seconds]  # bytes a second by reader, fastest first, of the last test that decodes
    weight_bytes: int  # what a decode step reads of the weights
    peak_memory_bytes: int | None  # of a process that does all this once, and nothing else
    peak_device_bytes: int | None = (
        None  # most that a GPU's memory held behind a run, beyond what was there before
    )
    matrix_rate: float | None = None  # operations a second of large matrix products on the GPU


def measure(
    backend: Backend,
    tokens: SpecialTokens,
    plan: BenchPlan,
    *,
    weight_bytes: int,
    takes_images: bool,
    threads: int,
    rival: Callable[[], Rival] | None = None,
    buffer: Callable[[], Bandwidth] | None = None,
    clock: Clock | None = None,
    gpu: GpuMeters | None = None,
) -> Figures:
    """Everything once for the peak memory; then image stages, prefills and decoding, each repeated in turn.

    Args:
        backend: a loaded variant.
        tokens: the model's special tokens.
        plan: what to measure.
        weight_bytes: of the decoder's weights, as stored.
        takes_images: whether `tokens` holds real ids of image tokens.
        threads: of the readers.
        rival: makes another implementation, once the peak memory is known.
        buffer: makes the buffer whose reading gives the bandwidth; None: a `ReadBuffer`.
        clock: None: the machine's.
        gpu: what to ask of a GPU; None: the backend runs on the CPU.

    Raises:
        ContextOverflowError, MemoryBudgetError: a test is too long for the model or the machine.
    """
    timer = _Timer(backend, tokens, plan, clock or SystemClock(), gpu)
    tests = plan.tests
    with progress(
        len(tests) * (1 + plan.repetitions) + takes_images * plan.repetitions, "bench", "runs"
    ) as bar:
        timer.bar = bar
        for test in tests:
            timer.once(test)
        stages = ImageStages(backend, tokens, *plan.image_size) if takes_images else None
        if stages is not None:
            timer.look_at_memory()
        peak, peak_device = peak_memory_bytes(), timer.peak_device_bytes
        image: dict[str, Seconds] = {}
        if stages is not None:
            image = timer.interleave(stages.contenders())
            image["first token"] = np.sum([image[stage] for stage in STAGES], axis=0)
            stages.close()
        other = None if rival is None else rival()
        shared = (buffer or (lambda: ReadBuffer(threads)))()
        matrix_rate = None if gpu is None else gpu.matrix_rate()
        measured = [timer.measure(test, weight_bytes, other, shared) for test in tests]
    return Figures(
        image=image,
        visual_tokens=0 if stages is None else stages.visual_tokens,
        image_prompt_tokens=0 if stages is None else stages.prompt_tokens,
        rows=[row for row, _ in measured],
        bandwidth=next((rates for _, rates in reversed(measured) if rates), {}),
        weight_bytes=weight_bytes,
        peak_memory_bytes=peak,
        peak_device_bytes=peak_device,
        matrix_rate=matrix_rate,
    )


def decoder_weight_bytes(bundle: Bundle, variant: str) -> int:
    """What a decode step reads of a variant's weights, as stored: all of them, head included, embedding not."""
    return bundle.manifest.files[f"{bundle.variant(variant).decoder}.data"].size_bytes


class _Timer:
    def __init__(
        self,
        backend: Backend,
        tokens: SpecialTokens,
        plan: BenchPlan,
        clock: Clock,
        gpu: GpuMeters | None,
    ) -> None:
        self._backend, self._tokens, self._plan, self._clock = backend, tokens, plan, clock
        self._gpu = gpu
        self.peak_device_bytes: int | None = None
        self.bar: Progress[int] | None = None

    def once(self, test: TextTest) -> None:
        """A short try, which also shows early that a test is too long."""
        with TextRun(self._backend, self._tokens, test) as run:
            contender = run.contender(1)
            if contender.prepare is not None:
                contender.prepare()
            contender.run()
            self.look_at_memory()
        self._advance()

    def interleave(self, contenders: Mapping[str, Contender]) -> dict[str, Seconds]:
        return interleave(
            contenders, rounds=self._plan.repetitions, clock=self._clock, on_round=self._advance
        )

    def measure(
        self, test: TextTest, weight_bytes: int, rival: Rival | None, buffer: Bandwidth
    ) -> tuple[TextRow, dict[str, Seconds]]:
        """The row, and the read bandwidth of the same rounds when the test decodes."""
        decodes = test.kind == "tg"
        # A rival decodes a single token, at the middle of our run.
        steps = (1, test.past + test.tokens // 2) if decodes else (test.tokens, test.past)
        with TextRun(self._backend, self._tokens, test) as run:
            others = {} if rival is None else dict(rival.contenders(*steps))
            readers = {name: Contender(read) for name, read in buffer.readers.items()} if decodes else {}
            times = self.interleave({OURS: run.contender(), **others, **readers})
            read_bytes = weight_bytes + run.cache_bytes
        ours = times[OURS]
        per_run = ours / test.tokens if decodes else ours
        rates = buffer.bandwidth({name: times[name] for name in readers})
        share = read_bytes / per_run / next(iter(rates.values())) if rates else None
        ratios = {name: times[name] / per_run for name in others}
        config = self._backend.traits.config
        operations = None if decodes else prefill_operations(config, test.tokens, test.past)
        return TextRow(test, ours, share, ratios, operations), rates

    def look_at_memory(self) -> None:
        used = None if self._gpu is None else self._gpu.used_bytes()
        if used is not None and self._gpu is not None:
            self.peak_device_bytes = max(used - self._gpu.used_before, self.peak_device_bytes or 0)

    def _advance(self) -> None:
        assert self.bar is not None
        self.bar.update()
