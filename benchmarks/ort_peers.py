"""ONNX Runtime's own quantizers, on graphs of a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
from calibration_feeds import Feed, read_feeds
from quantizer_table import Bits

PARTS = ("vision", "decoder")


@dataclass(frozen=True)
class Job:
    """One variant to make."""

    graphs: dict[str, Path]  # float ones, by part
    feeds: Path  # folder of `write_feeds`
    targets: dict[str, Path]  # graphs to write, by part


def products(graph: Path, *, head: bool = True) -> list[str]:
    """Names of the MatMuls that have a stored weight; those that NEO-ov's recipes quantize."""
    model = onnx.load(graph, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and (head or "lm_head" not in node.input[1])
    ]


def static(job: Job, *, everywhere: bool) -> None:
    """`quantize_static`: Q/DQ, int8 weights a scale for each output, symmetric int8 activations, MinMax.

    Args:
        job: what to make.
        everywhere: as it does unless told otherwise: attention's products of two activations, too, and what comes
            out of products. Else what goes into products with weights: the places of our recipe.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    for part in PARTS:
        quantize_static(
            job.graphs[part],
            job.targets[part],
            cast("CalibrationDataReader", _Reader(job.feeds, part)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=None if everywhere else products(job.graphs[part]),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": [] if everywhere else ["MatMul"],
            },
        )


def dynamic(job: Job) -> None:
    """`quantize_dynamic`: int8 weights a scale for each output, one activation scale for all tokens of a run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for part in PARTS:
        quantize_dynamic(
            job.graphs[part],
            job.targets[part],
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def four_bits(job: Job, *, algorithm: str, block_size: int) -> None:
    """`MatMulNBitsQuantizer`; head and vision stay float, which is more accurate and larger than ours.

    Args:
        job: what to make.
        algorithm: `rtn` (symmetric), `k_quant` or `hqq` (both with zero points).
        block_size: inputs that share a scale; k_quant has 32.
    """
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    logging.getLogger(nbits.__name__).setLevel(logging.ERROR)
    config: nbits.WeightOnlyQuantConfig = {
        "rtn": lambda: nbits.DefaultWeightOnlyQuantConfig(
            block_size=block_size, is_symmetric=True, accuracy_level=4
        ),
        "k_quant": lambda: nbits.KQuantWeightOnlyQuantConfig(),
        "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=block_size),
    }[algorithm]()
    graph = job.graphs["decoder"]
    body = set(products(graph, head=False))
    kept = [name for name in products(graph) if name not in body]
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(graph), accuracy_level=4, nodes_to_exclude=kept, algo_config=config
    )
    quantizer.process()
    cast("Any", quantizer.model).save_model_to_file(str(job.targets["decoder"]), False)
    onnx.save(onnx.load(job.graphs["vision"]), job.targets["vision"])


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to make a variant."""

    variant: str  # its name in the bundle
    shown: str
    kind: str  # of ours that it is compared with
    bits: Bits
    source: str  # float variant it starts from
    make: Callable[[Job], None]


EIGHT, FOUR = Bits(8, 8, 8), Bits(4, 32, 32)


ORT_PEERS: Sequence[Peer] = (
    Peer(
        "ort-static",
        "ONNX Runtime quantize_static",
        "int8",
        EIGHT,
        "fp32-portable",
        lambda job: static(job, everywhere=True),
    ),
    Peer(
        "ort-static-weights",
        "the same, only inputs of products with weights",
        "int8",
        EIGHT,
        "fp32-portable",
        lambda job: static(job, everywhere=False),
    ),
    Peer("ort-dynamic", "ONNX Runtime quantize_dynamic", "int8-dynamic", EIGHT, "fp32", dynamic),
    Peer(
        "ort-rtn-128",
        "ONNX Runtime MatMulNBits, rtn, block 128",
        "int4",
        FOUR,
        "fp32",
        lambda job: four_bits(job, algorithm="rtn", block_size=128),
    ),
    Peer(
        "ort-rtn-32",
        "ONNX Runtime MatMulNBits, rtn, block 32",
        "int4",
        FOUR,
        "fp32",
        lambda job: four_bits(job, algorithm="rtn", block_size=32),
    ),
    Peer(
        "ort-k-quant",
        "ONNX Runtime MatMulNBits, k_quant, block 32",
        "int4",
        FOUR,
        "fp32",
        lambda job: four_bits(job, algorithm="k_quant", block_size=32),
    ),
    Peer(
        "ort-hqq-128",
        "ONNX Runtime MatMulNBits, hqq, block 128",
        "int4",
        FOUR,
        "fp32",
        lambda job: four_bits(job, algorithm="hqq", block_size=128),
    ),
)


class _Reader:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, folder: Path, part: str) -> None:
        self._feeds: Iterator[Feed] = read_feeds(folder, part)

    def get_next(self) -> Feed | None:
        """The next run's arrays; None behind the last."""
        return next(self._feeds, None)
