"""The rival of GPU backends, on the CPU: the same logits as the reference, and a rate that is a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neo_edge.checkpoint import open_checkpoint
from neo_edge_export.bench.torch_gpu import TorchGpuRival, torch_matrix_rate
from neo_edge_export.bench.torch_speed import Step, TorchDecoder
from neo_edge_export.reference_loading import load_reference


def test_the_eager_rival_computes_what_the_reference_does(golden_tiny: Path) -> None:
    model = load_reference(open_checkpoint(golden_tiny)).language_model
    expected = TorchDecoder(model, "MKL", Step(3, 5)).runner("SDPA")()
    rival = TorchGpuRival(model, device="cpu", dtype=torch.float32, compiled=False)
    found = rival.contenders(3, 5)
    assert list(found) == ["torch eager"]
    logits = found["torch eager"].run()
    assert isinstance(logits, torch.Tensor)
    assert np.abs(logits.numpy() - expected.numpy()).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of what torch.compile imports itself
def test_a_compiled_rival_stands_beside_the_eager_one(golden_tiny: Path) -> None:
    model = load_reference(open_checkpoint(golden_tiny)).language_model
    rival = TorchGpuRival(model, device="cpu", dtype=torch.float32)
    assert list(rival.contenders(1, 5)) == ["torch eager", "torch.compile(reduce-overhead)"]


def test_the_matrix_rate_is_above_zero() -> None:
    assert torch_matrix_rate("cpu", size=64) > 0
