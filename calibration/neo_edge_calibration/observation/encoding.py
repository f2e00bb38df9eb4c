"""A conversation -> the token ids and pictures that the model is fed, its answers included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.bundle import Bundle
from neo_edge.errors import CalibrationDataError, TokenizerError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.positions import SequenceLayout, layout
from neo_edge.prompt import Message, encode_chat, encode_followup
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer, load_tokenizer
from neo_edge.tokens import IM_END, SpecialTokens
from neo_edge_calibration.sources.conversation import Conversation, Turn
from neo_edge_runtime.preprocessing import PixelLimits, SizedImage
from neo_edge_runtime.prompt_assembly import AskedVideos, PromptAssembly, text_only_tokens

# Of a video file: its tokens then stay near those of a large picture.
_FRAMES = FrameSampling("uniform", frames=8)


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """One sequence."""

    name: str
    input_ids: npt.NDArray[np.int32]  # [S]
    # Rows whose logits would predict an answer: what the head is observed on.
    head_rows: npt.NDArray[np.int32]
    images: tuple[SizedImage, ...]


class Encoder:
    """The chat template, picture sizes and tokenizer of a bundle, as the runtime uses them."""

    def __init__(self, bundle: Bundle, protocol: str) -> None:
        """Raises `TokenizerError` when the bundle has no tokenizer, `InputError` for an unknown protocol."""
        manifest = bundle.manifest
        tokenizer = load_tokenizer(bundle.root) if manifest.tokenizer else None
        if tokenizer is None:
            raise TokenizerError(
                f"the bundle {bundle.root} has no tokenizer, and calibration's prompts are text: export a checkpoint "
                "that holds tokenizer.json"
            )
        preset = get_protocol(protocol)
        self._tokenizer: Tokenizer = tokenizer
        self.sees = manifest.special_tokens is not None  # whether prompts may hold pictures at all
        self.tokens: SpecialTokens = manifest.special_tokens or text_only_tokens(manifest.model)
        self._assembly = PromptAssembly(
            config=manifest.model,
            tokens=self.tokens,
            tokenizer=tokenizer,
            protocol=preset,
            limits=PixelLimits(*preset.pixel_limits(manifest.model.vision)),
            frame_limits=PixelLimits(*preset.frame_pixel_limits(manifest.model.vision)),
            upstream_image_rules=False,
        )

    def encode(self, conversation: Conversation) -> EncodedSample:
        """The sequence that a model has seen when the conversation is over.

        Raises:
            CalibrationDataError: no turns, or an answer is missing before the last.
            ImageError, PromptError, InputError: as `Model.generate`.
        """
        protocol, tokenizer = self._assembly.protocol, self._tokenizer
        ids: list[int] = []
        head_rows: list[int] = []
        images: list[SizedImage] = []
        for number, turn in enumerate(_turns(conversation)):
            shown = self._assembly.pictures(
                turn.question,
                turn.images,
                turn.frames,
                turn.video_duration_s,
                turn.fps,
                AskedVideos(turn.videos, _FRAMES),
            )
            new = shown.sized
            message = Message("user", shown.text, len(new))
            counts = [image.grid.visual_tokens for image in new]
            style = protocol.multi_image_style
            if number == 0:
                system = protocol.system_prompt if conversation.system is None else conversation.system
                ids += encode_chat(tokenizer, [message], counts, system=system, style=style)
            else:
                ids += encode_followup(tokenizer, message, counts, answer_closed=True, style=style)
            images += new
            start = len(ids)
            if turn.answer is not None:
                ids += [*tokenizer.encode(turn.answer), tokenizer.special_id(IM_END)]
            # The last token of the question predicts the answer's first; the answer's last predicts nothing.
            head_rows += range(start - 1, max(start, len(ids) - 1))
        return EncodedSample(
            conversation.name, np.array(ids, np.int32), np.array(head_rows, np.int32), tuple(images)
        )

    def layout(self, sample: EncodedSample) -> SequenceLayout:
        """Where its tokens stand; raises `PromptError` as `neo_edge.positions.layout`."""
        return layout(sample.input_ids, [image.grid for image in sample.images], self.tokens)


def _turns(conversation: Conversation) -> tuple[Turn, ...]:
    turns = tuple(conversation.turns)
    if not turns:
        raise CalibrationDataError(f"{conversation.name} has no turns: give at least one question")
    if any(turn.answer is None for turn in turns[:-1]):
        raise CalibrationDataError(
            f"{conversation.name}: only the last question may be without an answer: write the others'"
        )
    return turns
