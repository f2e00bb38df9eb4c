"""The GPU's own text for arg-max and largest logits, run on the CPU thread by thread."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from cuda_on_host import CudaOnHost
from host_device import HostDevice

from neo_edge_runtime.tensorrt.device import Tensor

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def rows() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    normal = random.normal(0, 3, 5000).astype(np.float32)
    tied = np.round(normal)
    near = np.nextafter(np.float32(7), np.float32(8)).repeat(3000)
    near[::3] = 7
    return {
        "spread": normal,
        "tied": tied,
        "below zero": -np.abs(normal) - 40,
        "neighbours": near,
        "all the same": np.full(3000, -0.5, np.float32),
        "both zeros": np.tile(np.array([0.0, -0.0], np.float32), 1500),
        "tiny and huge": normal * np.float32(10.0) ** random.integers(-44, 30, 5000).astype(np.float32),
        "fewer than threads": normal[:300],
    }


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> CudaOnHost:
    return CudaOnHost(tmp_path_factory.mktemp("choosing"))


@pytest.mark.parametrize("backwards", [False, True])
def test_the_likeliest_tokens_are_numpys(cuda: CudaOnHost, backwards: bool) -> None:
    for logits in rows().values():
        pair = np.stack([logits, logits[::-1]])
        expected = [[row.argmax(), 1] for row in pair]
        assert cuda.likeliest(pair, backwards=backwards).tolist() == expected
    pair[1, 7] = np.inf
    assert cuda.likeliest(pair, backwards=backwards)[:, 1].tolist() == [1, 0]


@pytest.mark.parametrize(("keep", "temperature", "backwards"), [(1024, 0.7, False), (20, 3.0, True)])
@pytest.mark.parametrize("name", rows())
def test_the_largest_logits_and_the_sum_are_numpys(
    cuda: CudaOnHost, name: str, keep: int, temperature: float, backwards: bool
) -> None:
    logits = rows()[name]
    keep = min(keep, len(logits) // 2)
    tokens, values, summary = cuda.candidates(logits, temperature, keep, backwards=backwards)
    expected = np.sort(logits)[-keep]
    count = int(summary[0])
    there = np.sort(tokens[:count])
    assert summary[1] == expected
    assert there.tolist() == np.flatnonzero(logits > expected).tolist()
    assert (values[:count] == logits[tokens[:count]]).all()
    assert (tokens[count:] == -1).all()
    scores = (logits / np.float32(temperature)).astype(np.float64)
    total = np.exp(scores - scores.max()).sum()
    np.testing.assert_allclose(summary[2], total, rtol=(len(logits) / 1024 + 64) * 2.0**-23)
    assert summary[3] == 1


@pytest.mark.parametrize(("wrong", "place"), [(np.nan, 0), (-np.nan, 1024), (np.inf, 1023), (-np.inf, 4999)])
def test_one_logit_that_is_not_finite_is_seen(cuda: CudaOnHost, wrong: float, place: int) -> None:
    logits = rows()["spread"].copy()
    logits[place] = wrong
    *_, summary = cuda.candidates(logits, 1.0, 100, backwards=False)
    assert summary[3] == 0
    assert summary[0] < 100


def test_the_fake_gpu_computes_what_the_program_does(cuda: CudaOnHost) -> None:
    logits, keep = rows()["tied"], 700
    device = HostDevice()
    sizes = {"logits": len(logits), "temperature": 1, "tokens": keep, "values": keep, "summary": 4}
    tensors = {
        name: Tensor(
            device.allocate(4 * size, "a test"),
            (size,),
            np.dtype(np.int32 if name == "tokens" else np.float32),
        )
        for name, size in sizes.items()
    }
    device.array(tensors["logits"])[...] = logits
    device.array(tensors["temperature"])[...] = 0.6
    assert device.kernels is not None
    device.kernels.candidates(**tensors)
    device.synchronize()
    tokens, _, summary = cuda.candidates(logits, 0.6, keep, backwards=False)
    fake = device.array(tensors["summary"])
    np.testing.assert_allclose(fake, summary, rtol=1e-5)
    count = int(summary[0])
    assert sorted(device.array(tensors["tokens"])[:count].tolist()) == sorted(tokens[:count].tolist())
