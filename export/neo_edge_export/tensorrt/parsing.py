"""An ONNX file as a strongly typed network, or an error that a reader understands."""

from __future__ import annotations

import re
from pathlib import Path

from neo_edge.errors import EngineBuildError
from neo_edge_export.tensorrt import builder_api as api
from neo_edge_export.tensorrt.installed import Installed
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog

_SHOWN = 5
_IMPORTER = "ModelImporter.cpp"  # repeats the parser's errors in the log
_NO_DRIVER = re.compile(r"\[checkMacros\.cpp::catchCudaError::\d+\] Error Code 1: Cuda Runtime \(.*?\)\)")


def parse_graph(
    installed: Installed, builder: api.Builder, graph: Path, log: TensorRtLog
) -> api.INetworkDefinition:
    """Reads a graph and its external data.

    Raises:
        EngineBuildError: TensorRT does not take it; the message has the node, its operator and the reason.
    """
    flag = int(installed.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(1 << flag)
    parser = installed.module.OnnxParser(network, log.logger)
    if parser.parse_from_file(str(graph)):
        return network
    found = [_line(parser.get_error(index)) for index in range(parser.num_errors)]
    lines = found[:_SHOWN] + ([f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])
    # A file that cannot be opened is in the log alone.
    told = "".join(found)
    further = [line for line in map(_told, log.errors) if line and line not in told and _IMPORTER not in line]
    lines += [f"  {line}" for line in further]
    raise EngineBuildError(
        f"{installed.backend} {installed.version} takes no {graph.parent.name}/{graph.name}:\n"
        + "\n".join(lines or ["  it does not say why"])
        + "\nuse a variant with portable operators (neo-edge export --ops portable), or another TensorRT"
    )


def _line(error: api.ParserError) -> str:
    """`node 12 'MatMul_3' (TensorScatter): why [UNSUPPORTED_NODE]`."""
    where = f"node {error.node()}" if error.node() >= 0 else "the file"
    name, operator = error.node_name(), error.node_operator()
    described = (f" {name!r}" if name else "") + (f" ({operator})" if operator else "")
    return f"  {where}{described}: {_told(error.desc())} [{error.code().name}]"


def _told(text: str) -> str:
    """On one line, without the complaint about a missing driver that follows each error where none is."""
    return _NO_DRIVER.sub("", " ".join(text.split())).strip()
