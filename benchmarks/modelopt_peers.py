"""NVIDIA Model Optimizer's ONNX quantizer, on graphs of a bundle, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnx
from ort_peers import EIGHT, FOUR, PARTS, Job, Peer, products
from peer_environment import PeerEnvironment

HERE = Path(__file__).parent
BLOCK = 64  # inputs that share a scale, as in most products of ours
ENVIRONMENT = PeerEnvironment(
    "modelopt",
    (
        "torch==2.13.0",
        "onnx==1.21.0",
        "onnxruntime==1.24.4",
        "numpy==2.4.6",
        "scipy==1.17.1",
        "onnxscript==0.7.2",
        "onnxslim==0.1.98",
        "onnxconverter-common==1.16.0",
        "polygraphy==0.53.6",
        "ml_dtypes==0.6.0",
        "safetensors==0.8.0",
        "cppimport==26.4.17",
        "lief==1.0.0",
        "nvidia-ml-py==13.615.71",
        "omegaconf==2.4.0",
        "packaging==26.3",
        "pulp==3.3.2",
        "pydantic==2.14.3",
        "PyYAML==6.0.3",
        "regex==2026.11.15",
        "rich==15.0.0",
        "setproctitle==1.3.8",
        "tqdm==4.70.1",
    ),
    without_dependencies=("onnx-graphsurgeon==0.6.1", "nvidia-modelopt==0.47.0"),
    note="once; 1.4 GB with a CPU build of torch: let PIP_EXTRA_INDEX_URL name the index that has one",
)


def run(job: Job, *, mode: str, method: str, block_size: int = 0) -> None:
    """Quantizes the decoder, and in int8 the vision graph too; raises `CalledProcessError` with what it said."""
    for part in PARTS:
        graph, target = job.graphs[part], job.targets[part]
        if mode == "int4" and part == "vision":
            onnx.save(onnx.load(graph), target)
            continue
        feeds = [str(path) for path in sorted(job.feeds.glob(f"{part}-*.npz"))]
        body = set(products(graph, head=False))
        described = {
            "source": str(graph),
            "target": str(target),
            "feeds": feeds,
            "mode": mode,
            "method": method,
            "block_size": block_size,
            "nodes": products(graph),
            "exclude": [name for name in products(graph) if name not in body],
        }
        path = target.with_suffix(".json")
        path.write_text(json.dumps(described), encoding="utf-8")
        done = subprocess.run(
            [ENVIRONMENT.python, "-I", "-W", "ignore", HERE / "modelopt_worker.py", path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        path.unlink()
        if done.returncode:
            raise RuntimeError(next(iter(done.stderr.strip().splitlines()[-1:]), "it said nothing"))


MODELOPT_PEERS: Sequence[Peer] = (
    Peer(
        "modelopt-int8-max",
        "Model Optimizer int8, max",
        "int8",
        EIGHT,
        "fp32-portable",
        partial(run, mode="int8", method="max"),
    ),
    Peer(
        "modelopt-int8-entropy",
        "Model Optimizer int8, entropy",
        "int8",
        EIGHT,
        "fp32-portable",
        partial(run, mode="int8", method="entropy"),
    ),
    *(
        Peer(
            f"modelopt-int4-{method}",
            f"Model Optimizer int4, {method}, block {BLOCK}",
            "int4-portable",
            FOUR,
            "fp32-portable",
            partial(run, mode="int4", method=method, block_size=BLOCK),
        )
        for method in ("rtn_dq", "awq_lite", "awq_clip", "awq_full")
    ),
)
