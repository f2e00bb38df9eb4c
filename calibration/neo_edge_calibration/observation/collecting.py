"""Reads samples from a source until there are enough, and says which could not be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neo_edge.bundle import Bundle
from neo_edge.errors import CalibrationDataError, ImageError, PromptError, VideoError
from neo_edge.progress import progress
from neo_edge_calibration.observation.encoding import EncodedSample, Encoder
from neo_edge_calibration.observation.spool import SpoolWriter
from neo_edge_calibration.sources.conversation import Conversation, PromptSource
from neo_edge_runtime.ort_memory import ort_traits

MIN_SAMPLES = 8  # below, one odd picture decides the ranges
_MAX_TOKENS = 4096  # of a sample
_MAX_SCORE_BYTES = 5 << 28  # 1.25 GiB: a conversation is one prefill, whose attention scores must fit
_HOPELESS = 1000  # samples that cannot be used


@dataclass(frozen=True)
class Collected:
    """Samples that lie in a directory."""

    digest: str  # of all that the model is fed
    count: int
    skipped: tuple[str, ...]  # name and reason of those that could not be used


def token_limit(bundle: Bundle, name: str) -> int:
    """Tokens of the longest sample whose attention scores, [heads, S, S] float32 some times over, fit."""
    variant, model = bundle.variant(name), bundle.manifest.model
    traits = ort_traits(
        model, variant.ops, cache_dtype=variant.cache_dtype, embedding_dtype=variant.embedding_dtype
    )
    scores = _MAX_SCORE_BYTES / (4 * traits.score_buffers * model.decoder.num_heads)
    return min(_MAX_TOKENS, model.decoder.max_positions, int(scores**0.5))


def collect(
    source: PromptSource, encoder: Encoder, directory: Path, samples: int, max_tokens: int
) -> Collected:
    """Encodes samples and writes them to the directory.

    Raises:
        CalibrationDataError: fewer than 8 can be used, one is no conversation, or none has a picture although the
            model sees.
    """
    skipped: list[str] = []
    pictures = 0
    wanted = samples if source.size is None else min(samples, source.size)
    with SpoolWriter(directory) as writer, progress(wanted, "reading", "samples") as bar:
        for make in source:
            if len(writer) == samples or len(skipped) >= _HOPELESS + samples:
                break
            try:
                sample = _encoded(make, encoder)
            except (ImageError, VideoError) as error:
                skipped.append(str(error))
                continue
            if len(sample.input_ids) > max_tokens:
                skipped.append(
                    f"{sample.name} has {len(sample.input_ids)} tokens; at most {max_tokens} are used"
                )
                continue
            writer.add(sample)
            pictures += len(sample.images)
            bar.update()
        _require_enough(source, len(writer), pictures, skipped, encoder)
        return Collected(writer.close(), len(writer), tuple(skipped))


def _encoded(make: Callable[[], Conversation], encoder: Encoder) -> EncodedSample:
    conversation = make()
    try:
        sample = encoder.encode(conversation)
        encoder.layout(sample)
    except PromptError as error:
        raise CalibrationDataError(f"{conversation.name}: {error}") from error
    return sample


def _require_enough(
    source: PromptSource, count: int, pictures: int, skipped: Sequence[str], encoder: Encoder
) -> None:
    if count < MIN_SAMPLES:
        why = f", and {len(skipped)} could not be used (the first: {skipped[0]})" if skipped else ""
        raise CalibrationDataError(
            f"{source.description}: {count} samples can be used{why}; at least {MIN_SAMPLES} are needed, and 128 are "
            "usual: give more"
        )
    if encoder.sees and not pictures:
        raise CalibrationDataError(
            f"{source.description}: not one of {count} samples has a picture, and this model sees: statistics of text "
            "alone would clip what pictures bring; give pictures among the prompts"
        )
