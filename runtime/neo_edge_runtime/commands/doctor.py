"""`neo-edge doctor`: what a bug report needs to say about an installation."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from neo_edge import __version__
from neo_edge.byte_size import show_bytes

if TYPE_CHECKING:
    from neo_edge.finding import Finding, Requirement
    from neo_edge_runtime.machine import Machine
    from neo_edge_runtime.nvidia_devices import NvidiaDriver

_COLUMNS = 78
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "HF_HUB_OFFLINE", "ORT_LOG_LEVEL")
_OTHER_PACKAGES = ("onnxruntime", "tensorrt")  # of which there are many builds with names of their own
_UNASKED = ("dev", "docs")  # extras that only this repository itself needs


class DoctorCommand:
    """Describes the installation and the machine."""

    summary = "print what a bug report needs, and what works here"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the form of the report."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = (
            "Paste all of it into the report; it names no files, hosts or users.\n"
            "The status is 0 whatever was found: scripts look at `findings` in --json."
        )

    def run(self, args: argparse.Namespace) -> int:
        """Prints it."""
        report = _Report()
        if args.json:
            print(json.dumps(report.to_dict(), indent=2))
            return 0
        print("```text")
        for line in report.lines():
            print(line)
        print("```")
        return 0


doctor_command = DoctorCommand()


class _Report:
    """Everything that is asked, once."""

    def __init__(self) -> None:
        from neo_edge.finding import all_findings, requirements
        from neo_edge_runtime.machine import this_machine
        from neo_edge_runtime.nvidia_devices import nvidia_driver

        self._machine: Machine = this_machine()
        self._driver: NvidiaDriver | str = nvidia_driver()
        self._requirements: list[Requirement] = [
            requirement for requirement in requirements() if requirement.extra not in _UNASKED
        ]
        self._findings: list[Finding] = all_findings()
        self._plugins = _plugins()
        self._others = _other_packages()
        self._providers = _providers()
        self._tensorrt = _tensorrt_library()
        self._cache = _cache()

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        from dataclasses import asdict

        driver = self._driver
        return {
            "neo_edge": __version__,
            "python": {
                "version": platform.python_version(),
                "implementation": platform.python_implementation(),
                "virtual_environment": sys.prefix != sys.base_prefix,
            },
            "machine": asdict(self._machine),
            "nvidia": {"missing": driver} if isinstance(driver, str) else asdict(driver),
            "onnxruntime_providers": self._providers,
            "tensorrt_library": self._tensorrt,
            "requirements": [{**asdict(one), "met": one.met} for one in self._requirements],
            "other_packages": self._others,
            "plugins": self._plugins,
            "prepacked_cache": self._cache,
            "environment": _variables(),
            "findings": [asdict(finding) for finding in self._findings],
        }

    def lines(self) -> Iterator[str]:
        """The block for people."""
        machine = self._machine
        where = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
        yield from _row("neo-edge", __version__)
        yield from _row("python", f"{platform.python_implementation()} {platform.python_version()}, {where}")
        yield from _row("system", machine.system + (", in a container" if machine.container else ""))
        yield from _row("board", ", ".join(part for part in (machine.board, machine.jetson) if part))
        yield from _row("cpu", machine.cpu)
        yield from _row(
            "",
            f"{machine.usable_physical_cores} physical cores for this process, "
            f"{machine.logical_cores} logical ones in all",
        )
        yield from _row("cpu has", " ".join(machine.cpu_flags))
        yield from _row("cpu lacks", " ".join(machine.cpu_flags_missing))
        yield from _row("memory", _memory(machine))
        yield from _row("nvidia", self._driver if isinstance(self._driver, str) else _driver(self._driver))
        yield from _row("tensorrt", self._tensorrt or "no libnvinfer found")
        yield from _row("onnxruntime", ", ".join(self._providers) if self._providers else "does not load")
        yield from _row("cache", _shown_cache(self._cache))
        yield from _row("environment", ", ".join(f"{name}={value}" for name, value in _variables().items()))
        yield ""
        yield "packages"
        for extra in dict.fromkeys(one.extra for one in self._requirements):
            of = [str(one) for one in self._requirements if one.extra == extra]
            yield from _row(extra or "(always)", ", ".join(of))
        yield from _row("others", ", ".join(f"{name} {version}" for name, version in self._others.items()))
        yield from _row("plugins", ", ".join(f"{name} ({what})" for name, what in self._plugins.items()))
        yield ""
        yield "what works"
        for finding in self._findings:
            mark = "yes" if finding.works else "NO "
            text = f"{finding.what}: {finding.why}" + (f"; {finding.cure}" if finding.cure else "")
            yield from textwrap.wrap(
                text,
                _COLUMNS,
                initial_indent=f"  {mark}  ",
                subsequent_indent=" " * 7,
                break_on_hyphens=False,
            )


def _row(name: str, value: str) -> list[str]:
    if not value:
        return []
    return textwrap.wrap(
        value,
        _COLUMNS,
        initial_indent=f"  {name:12} ",
        subsequent_indent=" " * 15,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _memory(machine: Machine) -> str:
    parts = [
        ("in all", machine.memory_bytes),
        ("the control group's limit", machine.memory_limit_bytes),
        ("free", machine.available_memory_bytes),
    ]
    return ", ".join(f"{show_bytes(size)} {what}" for what, size in parts if size is not None) or "unknown"


def _driver(driver: NvidiaDriver) -> str:
    devices = [
        f"{device.name} ({device.compute_capability or 'unknown capability'}, "
        f"{'shared memory' if device.memory_bytes is None else show_bytes(device.memory_bytes)})"
        for device in driver.devices
    ]
    cuda = f", CUDA {driver.cuda}" if driver.cuda else ""
    return f"driver {driver.version}{cuda}; {', '.join(devices) or 'no GPU'}"


def _variables() -> dict[str, str]:
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _cache() -> dict[str, str | int]:
    """Where prepacked variants are kept, without the user's name, and what is there."""
    from neo_edge.errors import CacheError
    from neo_edge_runtime.cache_folder import shown_cache_folder
    from neo_edge_runtime.prepacked import PrepackedCache

    try:
        cache = PrepackedCache()
        sizes = [cache.size_bytes(name) for name in cache.names()]
    except (CacheError, OSError):
        return {"folder": shown_cache_folder(), "unreadable": 1}
    return {"folder": shown_cache_folder(), "prepacked": len(sizes), "size_bytes": sum(sizes)}


def _shown_cache(cache: Mapping[str, str | int]) -> str:
    if "unreadable" in cache:
        return f"{cache['folder']}, which cannot be read"
    return f"{cache['folder']}: {cache['prepacked']} prepacked, {show_bytes(int(cache['size_bytes']))}"


def _providers() -> list[str]:
    from neo_edge.errors import BrokenPackageError, MissingExtraError
    from neo_edge.extras import require

    try:
        found: list[str] = require("onnxruntime", extra="cpu").get_available_providers()
    except (MissingExtraError, BrokenPackageError):
        return []
    return found


def _tensorrt_library() -> str:
    from ctypes.util import find_library

    return find_library("nvinfer") or ""


def _other_packages() -> dict[str, str]:
    from importlib.metadata import distributions

    found = {item.name: item.version for item in distributions()}
    return {name: found[name] for name in sorted(found) if name.lower().startswith(_OTHER_PACKAGES)}


def _plugins() -> Mapping[str, str]:
    """Other packages that bring verbs or findings, and which."""
    from importlib.metadata import distributions

    from neo_edge.cli import GROUP as VERBS
    from neo_edge.finding import GROUP as FINDINGS
    from neo_edge.finding import PACKAGE

    return {
        f"{item.name} {item.version}": ", ".join(entry.name for entry in mine)
        for item in distributions()
        if item.name != PACKAGE
        and (mine := [entry for entry in item.entry_points if entry.group in (VERBS, FINDINGS)])
    }
