"""Which backend runs a bundle: by name, and never another one instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_golden import GOLDEN

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.cli import main
from neo_edge.errors import InputError, NeoEdgeError
from neo_edge_runtime.backend_choice import BACKENDS, DEFAULT_BACKEND, backend_name, open_backend
from neo_edge_runtime.nvidia_devices import NvidiaDriver, nvidia_driver
from neo_edge_runtime.ort_backend import OrtBackend

NO_GPU = pytest.mark.skipif(isinstance(nvidia_driver(), NvidiaDriver), reason="there is a GPU")


def test_nothing_asked_is_onnx_runtime_on_the_cpu(tiny_bundle: Path) -> None:
    opened = open_backend(open_bundle(tiny_bundle), None, threads=1)
    assert (opened.name, opened.variant, opened.threads) == (DEFAULT_BACKEND, "fp32", 1)
    assert isinstance(opened.backend, OrtBackend)
    opened.backend.close()


def test_an_unknown_backend_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(
        InputError, match="backend is 'cuda'; it must be one of onnxruntime, onnxruntime-cuda, tensorrt"
    ):
        backend_name("cuda")


def test_load_refuses_an_unknown_backend_before_it_looks_at_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backend is 'gpu'"):
        neo_edge.load(tmp_path / "none", backend="gpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_weights_are_prepacked_for_the_cpu_alone(tiny_bundle: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"the backend {name}: prepacked weights are the CPU's"):
        open_backend(open_bundle(tiny_bundle), name, prepacked="build")


@NO_GPU
@pytest.mark.parametrize("name", BACKENDS[1:])
def test_without_a_gpu_loading_on_one_fails_and_runs_nowhere_else(tiny_bundle: Path, name: str) -> None:
    with pytest.raises(NeoEdgeError) as caught:
        open_backend(open_bundle(tiny_bundle), name)
    assert ": " in str(caught.value), "a message says what to do"


@NO_GPU
@pytest.mark.parametrize(
    "command",
    [
        ["run", "BUNDLE", "--backend", "onnxruntime-cuda", "5 6", "--token-ids"],
        ["parity", "BUNDLE", str(GOLDEN / "text.npz"), "--backend", "onnxruntime-cuda", "--variant", "fp32"],
        ["eval", "BUNDLE", "--backend", "onnxruntime-cuda", "--count", "1"],
        ["bench", "BUNDLE", "--backend", "onnxruntime-cuda"],
    ],
)
def test_every_verb_that_runs_a_bundle_takes_a_backend(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    status = main([str(tiny_bundle) if word == "BUNDLE" else word for word in command])
    assert status == 1
    assert "has no CUDAExecutionProvider" in capsys.readouterr().err


def test_a_verb_names_the_backends_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "x.bundle", "--backend", "cpu", "question"])
    message = capsys.readouterr().err
    assert all(name in message for name in BACKENDS)
