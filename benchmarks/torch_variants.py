"""PyTorch's ways to run the same decoder faster: its best float32 form, bfloat16, integers, and compiled ones."""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neo_edge_export.bench.torch_speed import Step, TorchDecoder, fastest_variant
from neo_edge_export.reference import LanguageModel

Run = Callable[[], Tensor]
_HOPELESS = 3  # times as long as the fastest in float32


class TorchVariants:
    """The reference's decoder in several precisions."""

    def __init__(self, model: LanguageModel, *, compiled: bool) -> None:
        """Takes the float32 model and makes the others of it; `compiled`: also with torch.compile."""
        half = copy.deepcopy(model).to(torch.bfloat16)
        self._models = {"torch bfloat16": half}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of it is to go, they say
            self._models["torch int8 dynamic"] = torch.ao.quantization.quantize_dynamic(
                model, {nn.Linear}, dtype=torch.qint8
            )
        self._model, self._compiled = model, compiled

    def runners(self, step: Step) -> dict[str, Run]:
        """By name; what does not run here, or far too slowly to matter, is left out, and said on standard error."""
        fastest = fastest_variant(self._model, step)
        longest = _HOPELESS * _seconds(fastest.run)
        found: dict[str, Run] = {f"torch float32 ({fastest.name})": fastest.run}
        for name, model in self._models.items():
            decoder = TorchDecoder(model, "MKL", step)
            candidates = {
                f"{name}, SDPA": decoder.runner("SDPA"),
                f"{name}": decoder.runner("grouped products"),
            }
            if self._compiled and "int8" not in name:
                candidates[f"{name}, compiled"] = torch.compile(decoder.runner("SDPA"))
            for candidate, run in candidates.items():
                try:
                    run()  # the first time compiles and lays out
                    seconds = _seconds(run)
                except (RuntimeError, TypeError) as error:
                    print(f"{candidate} does not run: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                if seconds > longest:
                    print(f"{candidate} is left out: {seconds:.2f} s", file=sys.stderr)
                else:
                    found[candidate] = run
        return found


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
