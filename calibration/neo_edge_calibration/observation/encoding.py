"""A conversation -> the token ids and pictures that the model is fed, its answers included."""

from __future__ import annotations

from collections.abc import Sequence
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
from neo_edge_runtime.image_input import ImageSource
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
        """Raises `InputError` for an unknown protocol."""
        manifest = bundle.manifest
        self._root = bundle.root
        self._tokenizer = load_tokenizer(bundle.root) if manifest.tokenizer else None
        preset = get_protocol(protocol)
        self.sees = manifest.special_tokens is not None  # whether prompts may hold pictures at all
        self.tokens: SpecialTokens = manifest.special_tokens or text_only_tokens(manifest.model)
        self._assembly = PromptAssembly(
            config=manifest.model,
            tokens=self.tokens,
            tokenizer=self._tokenizer,
            protocol=preset,
            limits=PixelLimits(*preset.pixel_limits(manifest.model.vision)),
            frame_limits=PixelLimits(*preset.frame_pixel_limits(manifest.model.vision)),
            upstream_image_rules=False,
        )

    def encode(self, conversation: Conversation) -> EncodedSample:
        """The sequence that a model has seen when the conversation is over.

        Raises:
            CalibrationDataError: no turns, or an answer is missing before the last.
            TokenizerError: the prompt is text, and the bundle has no tokenizer.
            ImageError, VideoError, PromptError, InputError: as `Model.generate`.
        """
        turns = _turns(conversation)
        prompt = turns[0].question
        if not isinstance(prompt, str):
            return self._of_ids(prompt, turns[0].images, conversation.name)
        protocol, tokenizer = self._assembly.protocol, self._required_tokenizer()
        ids: list[int] = []
        head_rows: list[int] = []
        images: list[SizedImage] = []
        for number, turn in enumerate(turns):
            assert isinstance(turn.question, str)
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

    def _of_ids(
        self,
        prompt: Sequence[int] | npt.NDArray[np.integer],
        pictures: Sequence[ImageSource],
        name: str,
    ) -> EncodedSample:
        images = self._assembly.size(pictures)
        ids = np.array(self._assembly.expand(prompt, images), np.int32)
        # Nobody says which of them are answers, so the head sees all that is text.
        return EncodedSample(
            name, ids, np.flatnonzero(ids != self.tokens.img_context).astype(np.int32), tuple(images)
        )

    def _required_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise TokenizerError(
                f"the bundle {self._root} has no tokenizer, and these prompts are text: give token ids from Python, or "
                "export a checkpoint that holds tokenizer.json"
            )
        return self._tokenizer

    def layout(self, sample: EncodedSample) -> SequenceLayout:
        """Where its tokens stand; raises `PromptError` as `neo_edge.positions.layout`."""
        return layout(sample.input_ids, [image.grid for image in sample.images], self.tokens)


def _turns(conversation: Conversation) -> list[Turn]:
    turns = list(conversation.turns)
    if not turns:
        raise CalibrationDataError(f"{conversation.name} has no turns: give at least one question")
    by_ids = [not isinstance(turn.question, str) for turn in turns]
    if any(by_ids) and (len(turns) > 1 or turns[0].answer is not None or turns[0].frames or turns[0].videos):
        raise CalibrationDataError(
            f"{conversation.name}: a prompt of token ids is one turn with nothing but images: put answers into the ids"
        )
    if any(turn.answer is None for turn in turns[:-1]):
        raise CalibrationDataError(
            f"{conversation.name}: only the last question may be without an answer: write the others'"
        )
    return turns
