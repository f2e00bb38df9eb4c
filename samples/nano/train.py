"""Trains neo-ov-nano: the real architecture at a few million parameters, on synthetic spatial scenes.

    python samples/nano/train.py --out out/nano                       the full recipe
    python samples/nano/train.py --out out/smoke --families left_right --minutes 10

A killed run goes on from its last saved state when started again with the same --out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from batches import KINDS, PICTURE_SIZE, Batch, Encoder, Feeder, batches
from checkpoint import nano_config, write_checkpoint
from neo_edge.config import parse_config
from neo_edge_calibration.scenes import FAMILIES
from neo_edge_export.reference import NeoModel
from tokenizer import train_tokenizer
from training_forward import Inputs, forward, use_compiled


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    seed: str = "train"  # of scenes and of the first weights
    families: tuple[str, ...] = tuple(FAMILIES)
    tokens_per_batch: int = 6144  # padded tokens
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    decay_share: float = 0.3  # last part of the time, in which the rate falls to a fiftieth
    weight_decay: float = 0.02
    clip: float = 1.0
    blur: tuple[float, float] = (3.0, 0.8)  # of coordinates, first and last, see `token_losses`
    perception: float = 0.3  # weight of what visual tokens are asked directly, see `Perception`
    average: float = 0.998  # decay of the moving average of the weights, which is what ships
    minutes: float = 90.0  # of training, summed over resumed runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the state, the log and the checkpoint"
    )
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument(
        "--minutes", type=float, default=Recipe.minutes, help="training time, all runs together"
    )
    parser.add_argument(
        "--boost", nargs="*", default=[], metavar="FAMILY=WEIGHT", help="draw a family more often"
    )
    parser.add_argument("--processes", type=int, default=2, help="data-parallel processes, a thread each")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    boost = {name: float(weight) for name, weight in (item.split("=") for item in args.boost)}
    recipe = Recipe(families=tuple(args.families), minutes=args.minutes)
    args.out.mkdir(parents=True, exist_ok=True)
    meeting = args.out / "meeting"
    meeting.unlink(missing_ok=True)
    arguments = (args.processes, meeting, recipe, args.out, args.compile, boost)
    start_processes(_process, arguments, nprocs=args.processes, start_method="spawn")


def _process(rank: int, ranks: int, meeting: Path, *arguments: Any) -> None:
    # Two busy torch threads on two busy cores wait for each other; two processes meet once a step.
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    Training(*arguments, rank=rank, ranks=ranks).run()
    torch.distributed.destroy_process_group()


class Training:
    """One run, resumable at `STATE_EVERY` steps."""

    LOG_EVERY = 50  # steps
    STATE_EVERY = 500
    CHECK_EVERY = 1000

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        compiled: bool,
        boost: dict[str, float],
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.recipe, self.out, self.rank, self.ranks = recipe, out, rank, ranks
        self.tokenizer = self._tokenizer()
        self.raw_config = nano_config(self.tokenizer)
        torch.manual_seed(0)
        self.model = NeoModel(parse_config(self.raw_config))
        initialise(self.model)
        self.perception, self.perceived = Perception(self.model.config.decoder.hidden_size), 0.0
        self.trained = torch.nn.ModuleDict({"model": self.model, "perception": self.perception})
        decayed = [p for p in self.trained.parameters() if p.ndim > 1]
        others = [p for p in self.trained.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.step, self.next_index, self.seconds = 0, 0, 0.0
        self._resume()
        self.coordinate_ids = torch.from_numpy(Encoder(out).coordinate_ids)
        self.mix = {family: boost.get(family, 1.0) for family in (*recipe.families, PICTURE_SIZE)}
        if compiled:
            use_compiled()

    def run(self) -> None:
        """Trains until the time is used up, then writes the checkpoint of the averaged weights."""
        recipe = self.recipe
        if self.seconds >= recipe.minutes * 60:
            print("the time of this recipe is used up; raise --minutes to go on")
            return
        feeder = Feeder(
            self.out, recipe.seed, self.next_index, self.mix, recipe.tokens_per_batch, self.rank, self.ranks
        )
        log = (self.out / "log.jsonl").open("a")
        window: defaultdict[str, list[float]] = defaultdict(list)
        start, begun = time.monotonic(), self.seconds
        try:
            while self.seconds < recipe.minutes * 60:
                batch = next(feeder)
                for family, loss in zip(batch.families, self._train_step(batch), strict=True):
                    window[family].append(loss)
                self.seconds = begun + self._agree(time.monotonic() - start)
                self.next_index = max(self.next_index, batch.next_index)
                if self.rank > 0:
                    continue
                if self.step % self.LOG_EVERY == 0:
                    self._log(log, window)
                    window.clear()
                if self.step % self.STATE_EVERY == 0:
                    self._save()
                if self.step % self.CHECK_EVERY == 0:
                    print(
                        json.dumps(teacher_forced(self._averaged_model(), self.out, recipe.families)),
                        flush=True,
                    )
            if self.rank == 0:
                self._save()
                write_checkpoint(self.out / "checkpoint", self.raw_config, self.tokenizer, self.average)
        finally:
            feeder.close()
            log.close()

    def _log(self, log: TextIO, window: Mapping[str, Sequence[float]]) -> None:
        losses = {family: round(sum(values) / len(values), 4) for family, values in window.items()}
        row = {"step": self.step, "minutes": round(self.seconds / 60, 2), "samples": self.next_index}
        log.write(json.dumps(row | {"perception": round(self.perceived, 4), "loss": losses}) + "\n")
        log.flush()
        mean = sum(losses.values()) / len(losses)
        minutes = self.seconds / 60
        print(
            f"step {self.step}  {minutes:.1f} min  loss {mean:.3f}  perception {self.perceived:.3f}",
            flush=True,
        )

    def _train_step(self, batch: Batch) -> list[float]:
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * schedule(self.recipe, self.step, self.seconds)
        losses, weight, half_way = token_losses(self.model, batch, self.coordinate_ids, self._blur())
        perceived = self.perception(half_way, torch.from_numpy(batch.seen), self._blur())
        (losses.sum() / weight.sum() + self.recipe.perception * perceived).backward()
        self.perceived = float(perceived.detach())
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        per_sample: list[float] = (losses.detach().sum(1) / weight.sum(1)).tolist()
        return per_sample

    def _blur(self) -> float:
        first, last = self.recipe.blur
        share = self.seconds / (self.recipe.minutes * 60)
        return first + (last - first) * min(share / (1 - self.recipe.decay_share), 1.0)

    def _average_gradients(self) -> None:
        if self.ranks > 1:
            gradients = [
                parameter.grad for parameter in self.trained.parameters() if parameter.grad is not None
            ]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            torch.distributed.all_reduce(flat)
            parts = (flat / self.ranks).split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def _agree(self, seconds: float) -> float:
        """The first process's clock, so that all stop at the same step."""
        clock = torch.tensor(seconds, dtype=torch.float64)
        torch.distributed.broadcast(clock, 0)
        return float(clock)

    def _averaged_model(self) -> NeoModel:
        model = NeoModel(self.model.config).eval()
        model.load_state_dict(self.average)
        return model

    def _tokenizer(self) -> Tokenizer:
        path = self.out / "tokenizer.json"
        if not path.exists() and self.rank == 0:
            train_tokenizer().save(str(path))
        if self.ranks > 1:
            torch.distributed.barrier()
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        return tokenizer

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "perception": self.perception.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "parameters": self._parameter_names(),
            "progress": {"step": self.step, "next_index": self.next_index, "seconds": self.seconds},
            "recipe": asdict(self.recipe),
        }
        partial = self.out / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.out / "state.pt")

    def _parameter_names(self) -> list[str]:
        names = {id(parameter): name for name, parameter in self.trained.named_parameters()}
        return [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        # The optimizer knows its parameters by number only, and reads beyond a moment of another shape.
        if state["parameters"] != self._parameter_names():
            raise SystemExit(f"{path} is of a model with other parameters: start with an empty --out")
        self.model.load_state_dict(state["model"])
        self.perception.load_state_dict(state["perception"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.next_index = state["progress"]["step"], state["progress"]["next_index"]
        self.seconds = state["progress"]["seconds"]
        print(f"goes on from step {self.step}, {self.seconds / 60:.1f} minutes")


def initialise(model: NeoModel) -> None:
    """N(0, 0.02), and less for what adds to the residual stream."""
    layers = model.config.decoder.num_layers
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = (
                0.02 / math.sqrt(2 * layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            )
            torch.nn.init.normal_(parameter, std=scale)
    # Content that is always there, turned by the 2D rotation, is a code of the place: learning starts from it.
    bias = model.vision_model.embeddings.patch_embedding.bias
    assert bias is not None
    torch.nn.init.normal_(bias, std=0.5)


def schedule(recipe: Recipe, step: int, seconds: float) -> float:
    """Warm up by steps, stay, then fall linearly over the last share of the time."""
    left = 1 - seconds / (recipe.minutes * 60)
    return min(step / recipe.warmup_steps, 1.0) * min(max(left / recipe.decay_share, 0.02), 1.0)


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


class Perception(torch.nn.Module):
    """Asks every visual token half-way through the decoder what it shows: kind and box. Used in training only.

    Answers alone say little about most of a picture; with this each of its tokens is taught at each step.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.kind = torch.nn.Linear(hidden_size, len(KINDS) + 1)
        self.box = torch.nn.Linear(hidden_size, 4 * 101)

    def forward(self, visual: Tensor, seen: Tensor, blur: float) -> Tensor:
        """Mean loss over the visual tokens [P / 4, hidden], given what they show [P / 4, 5]."""
        normed = F.rms_norm(visual, visual.shape[-1:])
        kind, box = self.kind(normed), self.box(normed)
        shown = seen[:, 0] > 0
        log_p = box[shown].view(-1, 101).log_softmax(-1)
        off = -(log_p * bell(seen[shown, 1:].flatten(), blur)).sum() / max(len(log_p), 1)
        found: Tensor = F.cross_entropy(kind, seen[:, 0]) + off
        return found


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


if __name__ == "__main__":
    main()
