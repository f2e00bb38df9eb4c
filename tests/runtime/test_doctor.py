"""`neo-edge doctor`: what it reads of a machine, and how it says it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from neo_edge import __version__
from neo_edge.cli import main
from neo_edge_runtime import doctor
from neo_edge_runtime.machine import this_machine
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver, nvidia_driver

XEON = "processor : 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 fma f16c avx512f avx512_vnni\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd42\n"
TEGRA = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n# more\n"
DPKG = "Package: other\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: install ok\nVersion: 6.2+b77\n\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_names_its_processor_and_what_kernels_are_chosen_by(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": XEON,
            "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n",
            "proc/self/cgroup": "0::/box\n",
            "cgroup/box/memory.max": "2147483648\n",
            "cgroup/box/memory.current": "0\n",
            "etc/os-release": 'NAME="x"\nPRETTY_NAME="Debian 12"\n',
            ".dockerenv": "",
        },
    )
    machine = this_machine(root / "proc", root / "cgroup", root)
    assert machine.cpu == "Intel(R) Xeon(R)"
    assert machine.cpu_flags == ("avx2", "fma", "f16c", "avx512f", "avx512_vnni")
    assert "amx_int8" in machine.cpu_flags_missing
    assert "Debian 12" in machine.system
    assert machine.container
    assert (machine.memory_bytes, machine.memory_limit_bytes) == (8 * 2**30, 2 * 2**30)
    assert machine.available_memory_bytes == 2 * 2**30
    assert machine.jetson == ""


def test_a_jetson_says_its_board_and_its_jetpack(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": ORIN,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            "etc/nv_tegra_release": TEGRA,
            "var/lib/dpkg/status": DPKG,
        },
    )
    machine = this_machine(root / "proc", root / "cgroup", root)
    assert machine.board == "NVIDIA Jetson Orin Nano"
    assert machine.jetson == "L4T R36.4.3, JetPack 6.2+b77"
    assert machine.cpu == "ARM part 0xd42"
    assert machine.cpu_flags == ("neon", "fp16", "dotprod")
    assert "sve" in machine.cpu_flags_missing


def test_a_system_without_such_files_is_no_error(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "proc", tmp_path / "cgroup", tmp_path)
    assert machine.cpu_flags == ()
    assert machine.memory_bytes is None
    assert machine.logical_cores >= 1


class FakeNvml:
    """Answers as NVML does: a status, and the value through a pointer."""

    def __init__(self, status: int = 0, old: bool = False) -> None:
        self._status = status
        self.ended = False
        if not old:
            self.nvmlSystemGetCudaDriverVersion_v2 = lambda number: self._set(number, 13020)

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's name
        return self._status

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.ended = True
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: ctypes.Array[ctypes.c_char], _size: object) -> int:  # noqa: N802
        buffer.value = b"580.95"
        return 0

    def nvmlDeviceGetCount_v2(self, count: object) -> int:  # noqa: N802
        return self._set(count, 2)

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:  # noqa: N802
        return self._set(handle, index + 1)

    def nvmlDeviceGetName(  # noqa: N802
        self, _handle: object, buffer: ctypes.Array[ctypes.c_char], _size: object
    ) -> int:
        buffer.value = b"NVIDIA H100"
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: object) -> int:  # noqa: N802
        if handle.value == 2:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        memory._obj.total = 80 * 2**30  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, _handle: object, major: object, minor: object) -> int:  # noqa: N802
        return self._set(major, 9) + self._set(minor, 0)

    @staticmethod
    def _set(pointer: object, value: int) -> int:
        pointer._obj.value = value  # type: ignore[attr-defined]
        return 0


def test_nvidia_gpus_come_from_the_drivers_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: nvml)
    assert nvidia_driver() == NvidiaDriver(
        version="580.95",
        cuda="13.2",
        devices=(NvidiaDevice("NVIDIA H100", 80 * 2**30, "9.0"), NvidiaDevice("NVIDIA H100", None, "9.0")),
    )
    assert nvml.ended
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeNvml(old=True))
    old = nvidia_driver()
    assert isinstance(old, NvidiaDriver)
    assert old.cuda == ""


def test_a_driver_that_is_missing_or_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvidia_driver("libno-such-library.so") == "no NVIDIA driver (libno-such-library.so is not there)"
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeNvml(status=9))
    assert "status 9" in str(nvidia_driver())


def test_two_onnx_runtimes_in_one_folder_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(doctor, "onnxruntime_packages", lambda: both)
    (found,) = [one for one in doctor.findings() if not one.works and "overwrite" in one.why]
    assert found.cure.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_without_onnxruntime_the_pip_line_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (answering,) = [one for one in doctor.findings() if one.what == "answer from bundles"]
    assert not answering.works
    assert 'pip install "neo-edge[cpu]"' in answering.cure
    assert main(["doctor"]) == 0


def test_the_verb_prints_a_block_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("```text\n")
    assert text.endswith("```\n")
    for shown in (
        __version__,
        f"numpy {version('numpy')}",
        "CPUExecutionProvider",
        "yes  answer from bundles",
    ):
        assert shown in text
    assert max(map(len, text.splitlines())) <= 80
    assert str(Path.home()) not in text


def test_the_json_holds_everything_and_heavy_packages_stay_out() -> None:
    code = (
        "import sys; from neo_edge.cli import main; status = main(['doctor', '--json']); "
        "assert not {'torch', 'onnx', 'tokenizers', 'PIL.Image'} & set(sys.modules), 'imported'; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["neo_edge"] == __version__
    assert {one["name"] for one in report["requirements"]} >= {"numpy", "onnxruntime", "torch"}
    assert all(one["cure"] for one in report["findings"] if not one["works"] and "GPU" not in one["what"])
    assert report["machine"]["usable_physical_cores"] >= 1
