"""What the nano model is taught: the next token of the answer, and what each visual token shows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from batches import Batch, batches
from neo_edge_calibration.scenes.drawing import COLOURS, SHAPES
from neo_edge_export.reference import NeoModel
from training_forward import Inputs, forward


def model_inputs(batch: Batch) -> Inputs:
    return Inputs(
        *(torch.from_numpy(array) for array in (batch.ids, batch.position_ids, batch.is_visual)),
        *(torch.from_numpy(array) for array in (batch.patches, batch.xy)),
    )


def token_losses(
    model: NeoModel, batch: Batch, coordinate_ids: Tensor, blur: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross entropy of every next token, and the weights, both [B, S - 1]; and `forward`'s second part.

    A coordinate's target is a bell of width `blur` (in steps of ten thousandths) around the right one: near
    misses are told apart from far ones, which lets a small model find boxes much earlier.
    """
    inputs, weight = model_inputs(batch), torch.from_numpy(batch.weight)
    ids, is_coordinate = inputs.ids, torch.from_numpy(batch.is_coordinate)
    ahead = F.pad(weight[:, 1:], (0, 1)) > 0
    logits, half_way = forward(model, inputs, ahead)
    log_p = logits.float().log_softmax(-1)
    targets, blurred = ids[:, 1:][ahead[:, :-1]], is_coordinate[:, 1:][ahead[:, :-1]]
    found = -log_p.gather(1, targets[:, None])[:, 0]
    steps = (targets[blurred][:, None] == coordinate_ids).int().argmax(1)
    near = -(log_p[blurred][:, coordinate_ids] * bell(steps, blur)).sum(1)
    found = found.index_put((blurred.nonzero()[:, 0],), near)
    losses = torch.zeros_like(weight[:, 1:])
    losses[ahead[:, :-1]] = found
    return losses * weight[:, 1:], weight[:, 1:], half_way


def bell(steps: Tensor, width: float) -> Tensor:
    """[N] places to [N, 101] weights around them that add up to 1."""
    distance = torch.arange(101) - steps[:, None]
    return torch.softmax(-0.5 * (distance / width).square(), dim=1)


@dataclass(frozen=True)
class Perceived:
    """What visual tokens were taken for, over the tokens that show something; and words."""

    loss: Tensor  # scalar
    colour: float  # share of right colours
    shape: float  # share of right shapes
    bound: float  # share of names whose last word knows the name's colour


class Perception(torch.nn.Module):
    """Asks tokens half-way through the decoder what they show or say. Used in training only.

    Answers alone say little about most of a picture; with this each of its tokens is taught at each step.
    Colour and shape are asked apart: a colour is there in each token, a shape must be put together. Words are asked
    the same as visual tokens, by the same weights, so that what is sought and what is seen look alike.
    """

    SHAPE_WEIGHT = 2.0

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.colour = torch.nn.Linear(hidden_size, len(COLOURS) + 1)
        self.shape = torch.nn.Linear(hidden_size, len(SHAPES) + 1)
        self.box = torch.nn.Linear(hidden_size, 4 * 101)

    def forward(self, visual: Tensor, seen: Tensor, words: Tensor, named: Tensor, blur: float) -> Perceived:
        """Mean loss over visual tokens and words.

        Args:
            visual: [P / 4, hidden] of the visual tokens.
            seen: [P / 4, 6] what they show, see `batches.seen_in`.
            words: [N, hidden] of words that name something.
            named: [N, 2] colour and shape that they name; 0 is not asked.
            blur: width of the boxes' targets, see `bell`.
        """
        normed = F.rms_norm(visual, visual.shape[-1:])
        colour, shape = self.colour(normed), self.shape(normed)
        shown = seen[:, 0] > 0
        log_p = self.box(normed[shown]).view(-1, 101).log_softmax(-1)
        off = -(log_p * bell(seen[shown, 2:].flatten(), blur)).sum() / max(len(log_p), 1)
        kind = F.cross_entropy(colour, seen[:, 0]) + self.SHAPE_WEIGHT * F.cross_entropy(shape, seen[:, 1])
        normed = F.rms_norm(words, words.shape[-1:])
        said = self.colour(normed), self.shape(normed)
        meant = torch.stack([_asked_loss(said[column], named[:, column]) for column in (0, 1)]).sum()
        return Perceived(
            kind + off + meant,
            colour=_share(colour[shown], seen[shown, 0]),
            shape=_share(shape[shown], seen[shown, 1]),
            bound=_share(said[0][named[:, 0] > 0], named[named[:, 0] > 0, 0]),
        )


def _asked_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy where the target is not 0."""
    total = F.cross_entropy(logits, target, ignore_index=0, reduction="sum")
    return total / (target > 0).sum().clamp(min=1)


def _share(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(-1) == target).float().mean())


@torch.no_grad()
def teacher_forced(model: NeoModel, tokenizer: Path, families: tuple[str, ...]) -> dict[str, float]:
    """Share of held-out samples, a family each, whose last answer is right when the steps before it are given."""
    right: defaultdict[str, list[float]] = defaultdict(list)
    source = batches(tokenizer, "held-out", 0, dict.fromkeys(families, 1.0), 4096)
    while sum(map(len, right.values())) < 40 * len(families):
        batch = next(source)
        inputs, weight = model_inputs(batch), torch.from_numpy(batch.weight)
        ids = inputs.ids
        final = weight == weight.max(1, keepdim=True).values
        ahead = F.pad(final[:, 1:], (0, 1))
        found = torch.zeros_like(ids)
        found[ahead] = forward(model, inputs, ahead)[0].argmax(-1)
        wrong = ((found[:, :-1] != ids[:, 1:]) & ahead[:, :-1]).any(1)
        for family, failed in zip(batch.families, wrong.tolist(), strict=True):
            right[family].append(float(not failed))
    return {family: round(sum(values) / len(values), 3) for family, values in sorted(right.items())}
