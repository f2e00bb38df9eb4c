"""For which GPU engines are built: this machine's, or with TensorRT-RTX one that is not there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from neo_edge.errors import BackendError, EngineBuildError
from neo_edge_export.tensorrt import builder_api as api
from neo_edge_export.tensorrt.installed import Installed
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver, nvidia_driver


@dataclass(frozen=True)
class Target:
    """The GPU that engines are for."""

    compute_capability: str  # digits, such as 86
    device: NvidiaDevice | None  # None: it is not in this machine
    driver: str | None  # that tactics are timed under; None: built ahead of time


def choose_target(
    installed: Installed, wanted: str | None, found: NvidiaDriver | str | None = None
) -> Target:
    """The GPU to build for.

    Args:
        installed: TensorRT builds only for the GPU it runs on, TensorRT-RTX for any that it knows.
        wanted: compute capability, as 86, 8.6 or SM86; None: the first GPU here.
        found: the driver, or why there is none; None: ask it.

    Raises:
        EngineBuildError: this TensorRT does not build for that GPU.
        BackendError: there is no driver, and one is needed.
    """
    driver = nvidia_driver() if found is None else found
    devices = [] if isinstance(driver, str) else list(driver.devices)
    digits = None if wanted is None else re.sub(r"(?i)^sm_?|\.", "", wanted)
    if digits is None and not devices:
        raise BackendError(
            f"{driver if isinstance(driver, str) else 'the driver finds no GPU'}, so there is none to build for"
            + (
                f": choose one with --compute-capability ({', '.join(_known(installed))})"
                if installed.rtx
                else ": TensorRT builds on the GPU that the engines are for; --backend tensorrt-rtx builds without one"
            )
        )
    # A Jetson's NVML may not say its compute capability.
    here = next((device for device in devices if digits is None or _digits(device) in ("", digits)), None)
    chosen = _digits(devices[0]) if digits is None else digits
    if not chosen:
        raise BackendError(
            f"the driver does not say the compute capability of {devices[0].name}: give it with --compute-capability "
            "(87 is Jetson Orin, 110 Thor)"
        )
    if installed.rtx is not None:
        if chosen not in _known(installed):
            raise EngineBuildError(
                f"{installed.backend} {installed.version} does not build for compute capability {chosen}; it builds "
                f"for {', '.join(_known(installed))}: on other GPUs (87 is Jetson Orin, 90 is H100) build with "
                "--backend tensorrt on the device itself"
            )
        return Target(chosen, here, None)
    if here is None or isinstance(driver, str):
        there = (
            driver
            if isinstance(driver, str)
            else f"{' and '.join(device.compute_capability for device in devices) or 'none'} here"
        )
        raise EngineBuildError(
            f"TensorRT builds only for the GPU that it runs on, and compute capability {chosen} is not here ({there}): "
            "build on that device, or with --backend tensorrt-rtx"
        )
    return Target(chosen, here, driver.version)


def set_target(installed: Installed, config: api.IBuilderConfig, compute_capability: str) -> None:
    """Tells TensorRT-RTX the GPU, and that memory comes from the caller; TensorRT takes the GPU that is there."""
    if installed.rtx is not None:
        ahead = cast("api.AheadOfTimeConfig", config)
        ahead.num_compute_capabilities = 1
        ahead.set_compute_capability(
            installed.rtx.ComputeCapability.__members__[f"SM{compute_capability}"], 0
        )
        # What an engine allocates while it runs, no CUDA graph can capture (release notes of TensorRT-RTX 1.2).
        ahead.set_flag(cast("api.AheadOfTimeFlag", installed.rtx.BuilderFlag).REQUIRE_USER_ALLOCATION)


def _digits(device: NvidiaDevice) -> str:
    return device.compute_capability.replace(".", "")


def _known(installed: Installed) -> list[str]:
    """The compute capabilities that this TensorRT-RTX builds for, oldest first."""
    if installed.rtx is None:
        return []
    members = installed.rtx.ComputeCapability.__members__
    return sorted((name[2:] for name in members if re.fullmatch(r"SM\d+", name)), key=int)
