"""The PyTorch reference with other matrix products and another attention, to find its fastest form.

Everything stays float32: lower precisions inside products are PyTorch's to turn on, and off by default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_edge_export import reference
from neo_edge_export.reference import KeyValueCache, LanguageModel
from neo_edge_runtime.bench.timing import Contender, interleave

Linear = Literal["MKL", "MKL packed", "oneDNN packed"]
Attend = Literal["grouped products", "SDPA"]
LINEARS: tuple[Linear, ...] = ("MKL", "MKL packed", "oneDNN packed")
ATTENDS: tuple[Attend, ...] = ("grouped products", "SDPA")
SCREENING_ROUNDS = 2


@dataclass(frozen=True)
class Step:
    """One run of the decoder, with logits of its last token."""

    tokens: int  # S
    past: int  # tokens in the cache before


@dataclass(frozen=True)
class Variant:
    """One way to run a step in PyTorch."""

    linear: Linear
    attend: Attend
    run: Callable[[], Tensor]

    @property
    def name(self) -> str:
        """What distinguishes it."""
        return f"{self.linear}, {self.attend}"


class TorchRival:
    """The reference as it is on a CPU (eager), and with PyTorch's fused attention (sdpa)."""

    def __init__(self, model: LanguageModel) -> None:
        """`model` lends its weights."""
        self._model = model

    def contenders(self, tokens: int, past: int) -> dict[str, Contender]:
        """Both, by name; see `neo_edge_runtime.bench.measuring.Rival`."""
        decoder = TorchDecoder(self._model, "MKL", Step(tokens, past))
        return {
            "torch eager": Contender(decoder.runner("grouped products")),
            "torch sdpa": Contender(decoder.runner("SDPA")),
        }


def paper_variant(model: LanguageModel, step: Step) -> Variant:
    """The reference as it is."""
    return Variant("MKL", "grouped products", TorchDecoder(model, "MKL", step).runner("grouped products"))


def fastest_variant(model: LanguageModel, step: Step) -> Variant:
    """The fastest combination of product and attention, by a short screening; the losers are dropped."""
    best: tuple[float, Variant] | None = None
    for linear in LINEARS:
        decoder = TorchDecoder(model, linear, step)
        variants = [Variant(linear, attend, decoder.runner(attend)) for attend in ATTENDS]
        times = interleave(
            {variant.name: Contender(variant.run) for variant in variants}, rounds=SCREENING_ROUNDS
        )
        for variant in variants:
            seconds = float(np.median(times[variant.name]))
            if best is None or seconds < best[0]:
                best = seconds, variant
    assert best is not None
    return best[1]


class TorchDecoder:
    """The reference's decoder with one kind of matrix product, behind a cache of random numbers."""

    def __init__(self, model: LanguageModel, linear: Linear, step: Step) -> None:
        """`model` lends its weights; packed ones are made for the step's number of tokens."""
        self._model = model if linear == "MKL" else _packed(model, linear, step.tokens)
        self._past = step.past
        config, end = model.model.config, step.past + step.tokens
        weight = model.model.norm.weight
        generator = torch.Generator(weight.device).manual_seed(0)
        with weight.device:
            embeds = torch.empty(1, step.tokens, config.hidden_size, dtype=weight.dtype)
            self._embeds = embeds.normal_(generator=generator)
            t = torch.arange(step.past, end)
            self._positions = torch.stack([t, torch.zeros_like(t), torch.zeros_like(t)])[None]
            self._allow = (torch.arange(end) <= t[:, None])[None, None]
            self._cache = KeyValueCache.empty(config, end, dtype=weight.dtype)
        for tensor in (*self._cache.keys, *self._cache.values):
            tensor.normal_(generator=generator)

    def step(self) -> Tensor:
        """Logits of the last token, with the attention that the reference takes on this device."""
        self._cache.length = self._past
        hidden = self._model.model(self._embeds, self._positions, self._allow, self._cache)
        logits: Tensor = self._model.lm_head(hidden[:, -1:])
        return logits

    def runner(self, attend: Attend) -> Callable[[], Tensor]:
        """A function that runs the step, always behind the same cache."""

        def run() -> Tensor:
            with torch.inference_mode(), _attention(attend):
                return self.step()

        return run


class MklLinear(nn.Module):
    """MKL's product with a weight that is packed for one number of rows."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._rows, self._plain = rows, linear.weight
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(linear.weight, rows)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkl._mkl_linear(x, self._packed, self._plain, None, self._rows)
        return output


class OneDnnLinear(nn.Module):
    """oneDNN's product with a weight in its blocked layout."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight, rows)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return output


def _packed(model: LanguageModel, linear: Linear, rows: int) -> LanguageModel:
    """A copy whose products are packed; it shares every other parameter."""
    packed = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    kind = MklLinear if linear == "MKL packed" else OneDnnLinear
    for name, module in list(packed.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(packed.get_submodule(parent), leaf, kind(module, 1 if leaf == "lm_head" else rows))
    return packed


@contextmanager
def _attention(attend: Attend) -> Iterator[None]:
    original = reference.attend
    if attend == "SDPA":
        reference.attend = _sdpa
    try:
        yield
    finally:
        reference.attend = original


def _sdpa(query: Tensor, key: Tensor, value: Tensor, allow: Tensor, scale: float) -> Tensor:
    """What the reference does on accelerators."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allow, scale=scale, enable_gqa=True)
