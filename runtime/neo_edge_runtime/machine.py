"""The machine that this process runs on, as far as it decides what runs and how fast."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from neo_edge_runtime.control_groups import CGROUP, PROC, own_groups, read_text
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.processors import usable_physical_cores

# What fast kernels are chosen by; /proc/cpuinfo's names, and the usual ones where those differ.
_X86 = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16")
_X86_TILES = ("amx_tile", "amx_int8", "amx_bf16")
_ARM = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}
_LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}


@dataclass(frozen=True)
class Machine:
    """Facts for a bug report; nothing that names its owner."""

    system: str
    container: bool
    board: str  # of a single-board computer, such as a Jetson; empty elsewhere
    jetson: str  # release of NVIDIA's Linux for Tegra and of JetPack; empty elsewhere
    cpu: str
    cpu_flags: tuple[str, ...]  # of those that kernels are chosen by
    cpu_flags_missing: tuple[str, ...]
    logical_cores: int
    usable_physical_cores: int  # of this process: affinity and control groups
    memory_bytes: int | None
    memory_limit_bytes: int | None  # least limit of the control groups around this process
    available_memory_bytes: int | None


def this_machine(proc: Path = PROC, cgroup: Path = CGROUP, root: Path = Path("/")) -> Machine:
    """Looks at the system's files; on systems that have none of them, only what Python knows."""
    cpuinfo = read_text(proc / "cpuinfo")
    has, lacks = _flags(cpuinfo)
    total = re.search(r"^MemTotal:\s*(\d+)", read_text(proc / "meminfo"), re.MULTILINE)
    memory = int(total[1]) * 1024 if total else None
    return Machine(
        system=_system(root),
        container=any((root / name).exists() for name in (".dockerenv", "run/.containerenv")),
        board=read_text(root / "proc/device-tree/model").strip("\0"),
        jetson=_jetson(root),
        cpu=cpu_name(cpuinfo),
        cpu_flags=has,
        cpu_flags_missing=lacks,
        logical_cores=os.cpu_count() or 1,
        usable_physical_cores=usable_physical_cores(proc=proc, cgroup=cgroup),
        memory_bytes=memory,
        memory_limit_bytes=_memory_limit(proc, cgroup, memory),
        available_memory_bytes=available_memory_bytes(proc, cgroup),
    )


def _system(root: Path) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release"), re.MULTILINE)
    libc = " ".join(part for part in platform.libc_ver() if part)
    parts = [f"{platform.system()} {platform.release()}", name[1] if name else "", libc, platform.machine()]
    return ", ".join(part for part in parts if part)


def cpu_name(cpuinfo: str) -> str:
    """The processor's model, from the text of /proc/cpuinfo."""
    named = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    return f"ARM part {part[1]}" if part else platform.processor() or "unknown"


def _flags(cpuinfo: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = re.search(r"^(flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if listed is None:
        return (), ()
    found = set(listed[2].split())
    wanted = _ARM if listed[1] == "Features" else {name: name for name in (*_X86, *_X86_TILES)}
    has = tuple(shown for name, shown in wanted.items() if name in found)
    return has, tuple(shown for name, shown in wanted.items() if name not in found)


def _jetson(root: Path) -> str:
    tegra = read_text(root / "etc/nv_tegra_release").partition("\n")[0]
    if not tegra:
        return ""
    release = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", tegra)
    shown = f"L4T R{release[1]}.{release[2]}" if release else tegra.strip("# ")
    packages = read_text(root / "var/lib/dpkg/status")
    jetpack = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)", packages, re.MULTILINE)
    return f"{shown}, JetPack {jetpack[1]}" if jetpack else shown


def _memory_limit(proc: Path, cgroup: Path, memory: int | None) -> int | None:
    texts = [
        read_text(folder / _LIMIT_FILES[version]) for folder, version in own_groups("memory", proc, cgroup)
    ]
    limits = [int(text) for text in texts if text.isdigit()]
    # Version 1 writes an absurdly large number for no limit.
    return min((limit for limit in limits if memory is None or limit < memory), default=None)
