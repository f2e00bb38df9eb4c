"""The rival of GPU backends, on the CPU: the same logits as the reference, and a rate that is a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import open_checkpoint
from neo_edge.errors import BackendError
from neo_edge_export.bench.command import _torch_rival
from neo_edge_export.bench.gpu import gpu_bandwidth, gpu_meters
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_bandwidth_and_matrix_rate_are_unknown_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not gpu_bandwidth().readers
    assert "the copy bandwidth is not measured: " in caplog.text
    meters = gpu_meters(5)
    assert (meters.used_before, meters.used_bytes(), meters.matrix_rate()) == (5, None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_rival_on_a_gpu_needs_a_pytorch_that_sees_one(tiny_bundle: Bundle, golden_tiny: Path) -> None:
    rival = _torch_rival(str(golden_tiny), tiny_bundle, on_gpu=True)
    with pytest.raises(BackendError, match="sees no GPU to compare on: install a CUDA build"):
        rival(1)
