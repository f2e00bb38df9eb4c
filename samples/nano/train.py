"""Trains neo-ov-nano: the real architecture at a few million parameters, on synthetic spatial scenes.

    python samples/nano/train.py --out out/nano                       the full recipe
    python samples/nano/train.py --out out/smoke --families colour --boost colour=3 --minutes 10

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
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.multiprocessing.spawn import start_processes

from batches import Batch, Encoder, Feeder, batches
from checkpoint import nano_config, write_checkpoint
from losses import Perceived, Perception, teacher_forced, token_losses
from neo_edge.config import parse_config
from neo_edge_calibration.scenes import FAMILIES
from neo_edge_export.reference import NeoModel
from tokenizer import train_tokenizer
from training_families import TRAINING_FAMILIES
from training_forward import use_compiled

LONGEST_STEP_S = 20.0
BLUR_OF_TRAINED = (1.5, 0.8)  # `Recipe.blur` where boxes are known already


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    seed: str = "train"  # of scenes and of the first weights
    families: tuple[str, ...] = tuple(FAMILIES)
    tokens_per_batch: int = 6144  # padded tokens
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    decay_share: float = 0.3  # last part of the time, in which the rate falls to a fiftieth
    weight_decay: float = 0.02
    clip: float = 1.0
    blur: tuple[float, float] = (3.0, 0.8)  # of coordinates, first and last, see `token_losses`
    perception: float = 0.6  # weight of what visual tokens are asked beside the answers
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
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="weights and tokenizer to begin with, not chance",
    )
    parser.add_argument(
        "--scenes",
        default="",
        metavar="NAME",
        help="draw other scenes than a run without this, or another name",
    )
    parser.add_argument("--processes", type=int, default=2, help="data-parallel processes, a thread each")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    boost = {name: float(weight) for name, weight in (item.split("=") for item in args.boost)}
    # No number can collide: `neo-edge eval --seed` draws scenes of plain numbers.
    recipe = Recipe(
        f"train{args.scenes}",
        tuple(args.families),
        blur=Recipe.blur if args.start_from is None else BLUR_OF_TRAINED,
        minutes=args.minutes,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    meeting = args.out / "meeting"
    meeting.unlink(missing_ok=True)
    arguments = (args.processes, meeting, recipe, args.out, args.compile, boost, args.start_from)
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
        start_from: Path | None = None,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.recipe, self.out, self.rank, self.ranks = recipe, out, rank, ranks
        self.tokenizer = self._tokenizer(start_from)
        self.raw_config = nano_config(self.tokenizer)
        torch.manual_seed(0)
        self.model = NeoModel(parse_config(self.raw_config))
        initialise(self.model)
        if start_from is not None:
            stored = load_file(start_from / "model.safetensors")
            self.model.load_state_dict(
                {name: tensor.float() for name, tensor in stored.items()}, strict=False
            )
        self.perception = Perception(self.model.config.decoder.hidden_size)
        self.perceived: Perceived | None = None
        self.trained = torch.nn.ModuleDict({"model": self.model, "perception": self.perception})
        self.optimizers = optimizers(self.trained, recipe)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.step, self.next_index, self.seconds = 0, 0, 0.0
        self._resume()
        self.coordinate_ids = torch.from_numpy(Encoder(out).coordinate_ids)
        self.mix = {family: boost.get(family, 1.0) for family in (*recipe.families, *TRAINING_FAMILIES)}
        if compiled:
            use_compiled()

    def run(self) -> None:
        """Trains until the time is used up, then writes the checkpoint of the averaged weights."""
        recipe = self.recipe
        if self.seconds >= recipe.minutes * 60:
            print("the time of this recipe is used up; raise --minutes to go on")
            return
        arguments = (self.mix, recipe.tokens_per_batch, self.ranks)
        feeder = Feeder(batches, self.out, recipe.seed, self.next_index + self.rank, *arguments)
        log = (self.out / "log.jsonl").open("a")
        window: defaultdict[str, list[float]] = defaultdict(list)
        try:
            while self.seconds < recipe.minutes * 60:
                start = time.monotonic()
                batch = next(feeder)
                for family, loss in zip(batch.families, self._train_step(batch), strict=True):
                    window[family].append(loss)
                # A step takes about a second; a longer pause is the machine's, and is not training.
                self.seconds += self._agree(min(time.monotonic() - start, LONGEST_STEP_S))
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
        assert self.perceived is not None
        row = {"step": self.step, "minutes": round(self.seconds / 60, 2), "samples": self.next_index}
        seen = {"colour": round(self.perceived.colour, 4), "shape": round(self.perceived.shape, 4)}
        if not math.isnan(self.perceived.bound):  # no pair was named in this batch
            seen["bound"] = round(self.perceived.bound, 4)
        perceived = round(float(self.perceived.loss.detach()), 4)
        log.write(json.dumps(row | {"perception": perceived, "seen": seen, "loss": losses}) + "\n")
        log.flush()
        mean = sum(losses.values()) / len(losses)
        shares = "".join(f"  {name} {share:.1%}" for name, share in seen.items())
        print(
            f"step {self.step}  {self.seconds / 60:.1f} min  loss {mean:.3f}  perception {perceived:.3f}{shares}",
            flush=True,
        )

    def _train_step(self, batch: Batch) -> list[float]:
        self.step += 1
        rate = self.recipe.learning_rate * schedule(self.recipe, self.step, self.seconds)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        losses, weight, half_way = token_losses(self.model, batch, self.coordinate_ids, self._blur())
        seen, named = torch.from_numpy(batch.seen), torch.from_numpy(batch.named)
        visual, words = half_way[torch.from_numpy(batch.is_visual)], half_way[named.any(-1)]
        perceived: Perceived = self.perception(visual, seen, words, named[named.any(-1)], self._blur())
        (losses.sum() / weight.sum() + self.recipe.perception * perceived.loss).backward()
        self.perceived = perceived
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
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

    def _tokenizer(self, start_from: Path | None) -> Tokenizer:
        path = self.out / "tokenizer.json"
        if not path.exists() and self.rank == 0:
            if start_from is None:
                train_tokenizer().save(str(path))
            else:
                path.write_bytes((start_from / "tokenizer.json").read_bytes())
        if self.ranks > 1:
            torch.distributed.barrier()
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        return tokenizer

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "perception": self.perception.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "parameters": self._parameter_names(),
            "progress": {"step": self.step, "next_index": self.next_index, "seconds": self.seconds},
            "recipe": asdict(self.recipe),
        }
        partial = self.out / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.out / "state.pt")

    def _parameter_names(self) -> list[str]:
        names = {id(parameter): name for name, parameter in self.trained.named_parameters()}
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        return [names[id(p)] for group in groups for p in group["params"]]

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
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step, self.next_index = state["progress"]["step"], state["progress"]["next_index"]
        self.seconds = state["progress"]["seconds"]
        print(f"goes on from step {self.step}, {self.seconds / 60:.1f} minutes")


def optimizers(trained: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's matrices, AdamW for the convolutions, the embedding, the norms and the heads."""
    named = dict(trained.named_parameters())
    inner = {name for name, p in named.items() if ".layers." in name and p.ndim == 2}
    decayed = [p for name, p in named.items() if name not in inner and p.ndim > 1]
    others = [p for p in named.values() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    muon = torch.optim.Muon(
        [named[name] for name in sorted(inner)],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


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


if __name__ == "__main__":
    main()
