"""A loaded engine as the backend sees it, and the check of what is bound before TensorRT sees it.

`trt_engine.py` is TensorRT's; the tests have one that computes with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neo_edge.errors import BackendError, EngineError
from neo_edge_runtime.tensorrt.device import Location, Tensor


@dataclass(frozen=True)
class Port:
    """An input or output of an engine."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # -1: dynamic
    is_input: bool
    location: Location
    # Least and largest shape of an input by optimization profile; empty for outputs.
    ranges: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


class Engine(Protocol):
    """Weights on the device; any number of contexts run them."""

    @property
    def ports(self) -> Mapping[str, Port]:
        """Inputs and outputs by name."""
        ...

    @property
    def profiles(self) -> int:
        """Number of optimization profiles."""
        ...

    def scratch_bytes(self, profile: int) -> int:
        """Device memory that a context of the profile works in, for its largest shapes."""
        ...

    def new_context(self, profile: int, scratch: Tensor, stream: int) -> Context:
        """A context that works in `scratch`, which contexts share that never run at the same time."""
        ...

    def close(self) -> None:
        """Gives the weights back; contexts must be closed before."""
        ...


class Context(Protocol):
    """One way of running an engine: a profile, shapes and addresses."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Of an input."""
        ...

    def set_address(self, name: str, address: int) -> None:
        """Of an input or output."""
        ...

    def execute(self, stream: int) -> None:
        """Queues a run; raises `BackendError`."""
        ...

    def close(self) -> None:
        """Gives it back."""
        ...


def bind(engine: Engine, context: Context, profile: int, tensors: Mapping[str, Tensor]) -> None:
    """Checks every tensor against its port, then hands all of them to the context.

    Args:
        engine: whose context it is.
        context: of that engine.
        profile: of that context.
        tensors: all inputs and outputs by name.

    Raises:
        BackendError: a tensor is missing, unknown, or of another shape, type or place; nothing was bound.
    """
    faults = [f"{name} is not bound" for name in engine.ports if name not in tensors]
    for name, tensor in tensors.items():
        port = engine.ports.get(name)
        faults += [f"{name} is unknown"] if port is None else _faults(port, tensor, profile)
    if faults:
        raise BackendError(
            f"this run does not fit the engine: {listed(faults)}. A caller of the backend gave other arrays than "
            "docs/graph-contract.md says, or the engine was built with smaller limits (neo-edge build)"
        )
    for name, tensor in tensors.items():
        if engine.ports[name].is_input:
            context.set_shape(name, tensor.shape)
        context.set_address(name, tensor.address)


def require_ports(engine: Engine, wanted: Mapping[str, Port], profiles: int, file: str) -> None:
    """Raises `EngineError` when an engine is not of the graph that the bundle's manifest describes."""
    faults = [f"{name} is missing" for name in wanted if name not in engine.ports]
    faults += [f"{name} is unknown" for name in engine.ports if name not in wanted]
    for name, port in wanted.items():
        found = engine.ports.get(name)
        if found is None:
            continue
        if found.dtype != port.dtype:
            faults.append(f"{name} is {found.dtype}, {port.dtype} is wanted")
        if found.is_input != port.is_input:
            faults.append(f"{name} is an {'input' if found.is_input else 'output'}")
        if found.location != port.location:
            faults.append(f"{name} lies on the {found.location}, the {port.location} is wanted")
        if not _fits(found.shape, port.shape):
            faults.append(f"{name} is {list(found.shape)}, {list(port.shape)} is wanted")
    if engine.profiles != profiles:
        faults.append(f"it has {engine.profiles} optimization profiles, {profiles} are wanted")
    if faults:
        raise EngineError(
            f"{file} is not an engine of this bundle's model: {listed(faults)}. Build it again with neo-edge build"
        )


def listed(faults: list[str], shown: int = 3) -> str:
    """The first few."""
    more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
    return "; ".join(faults[:shown]) + more


def _faults(port: Port, tensor: Tensor, profile: int) -> list[str]:
    faults = []
    if tensor.dtype != port.dtype:
        faults.append(f"{port.name} is {tensor.dtype}, the engine takes {port.dtype}")
    if tensor.location != port.location:
        faults.append(
            f"{port.name} lies on the {tensor.location}, the engine wants it on the {port.location}"
        )
    if not _fits(tensor.shape, port.shape):
        faults.append(f"{port.name} has shape {list(tensor.shape)}, the engine takes {list(port.shape)}")
    elif port.is_input:
        least, most = port.ranges[profile]
        if any(not low <= size <= high for low, size, high in zip(least, tensor.shape, most, strict=True)):
            faults.append(
                f"{port.name} has shape {list(tensor.shape)}, the engine's profile {profile} takes "
                f"{list(least)} to {list(most)}"
            )
    if tensor.address == 0:
        faults.append(f"{port.name} has no memory")
    return faults


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes may be the same; -1 is any size."""
    return len(found) == len(wanted) and all(
        -1 in (there, size) or there == size for there, size in zip(found, wanted, strict=True)
    )
