"""llama.cpp from outside: its environment, its files in several formats, and a process for each that is timed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from peer_environment import PeerEnvironment
from qwen3_gguf import Widths, product_shapes

HERE = Path(__file__).parent
ENVIRONMENT = PeerEnvironment(
    "llama_cpp",
    ("numpy==2.4.6", "gguf==0.19.0", "llama-cpp-python==0.3.36"),
    variables={
        "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF",
        "CMAKE_BUILD_PARALLEL_LEVEL": "1",
        # gcc 12 takes half of what `ldtilecfg` reads for dead stores: llama.cpp then crashes where there is AMX.
        "CXXFLAGS": "-fno-tree-dse -fno-dse",
    },
    note="once; builds llama.cpp from llama-cpp-python's sources for this processor: gcc, 15 minutes on one core",
)
CONTEXT = 2048
KEY_BYTES = 2  # its caches are float16 unless told otherwise


@dataclass(frozen=True)
class Format:
    """One of llama.cpp's."""

    name: str
    kind: str  # of LLAMA_FTYPE_MOSTLY_
    pure: bool = False  # the head in that type, too

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.kind}{'-pure' if self.pure else ''}.gguf"


FORMATS = (
    Format("llama.cpp Q8_0", "Q8_0"),
    Format("llama.cpp Q4_0, head Q6_K", "Q4_0"),
    Format("llama.cpp Q4_0, head too", "Q4_0", pure=True),
    Format("llama.cpp Q4_K, head Q6_K", "Q4_K_S"),
    Format("llama.cpp Q4_K, head too", "Q4_K_S", pure=True),
)


def make_files(folder: Path, widths: Widths, threads: int) -> dict[Format, Path]:
    """Writes the model in float16 and lets llama.cpp quantize it; files that are there are kept.

    Raises:
        subprocess.CalledProcessError: the peer failed.
    """
    python = ENVIRONMENT.make()
    folder.mkdir(parents=True, exist_ok=True)
    found = {one: folder / one.file for one in FORMATS}
    missing = [one for one, path in found.items() if not path.is_file()]
    if not missing:
        return found
    source = folder / "F16.gguf"
    subprocess.run([python, "-I", HERE / "qwen3_gguf.py", source, widths.to_json()], check=True)
    for one in missing:
        half = found[one].with_suffix(".partial")
        pure = "pure" if one.pure else "mixed"
        command: list[str | Path] = [
            python,
            "-I",
            HERE / "llama_worker.py",
            "quantize",
            source,
            half,
            one.kind,
            pure,
            str(threads),
        ]
        subprocess.run(command, check=True)
        half.rename(found[one])
    source.unlink()
    return found


def table_share(path: Path, python: Path) -> int:
    """Bytes of a file's token table, of which a step reads one row."""
    program = (
        "import sys, gguf; print(next(int(t.n_bytes) for t in gguf.GGUFReader(sys.argv[1]).tensors "
        "if t.name == 'token_embd.weight'))"
    )
    shown = subprocess.run(
        [python, "-I", "-c", program, path], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return int(shown)


def weights_of(widths: Widths) -> int:
    """Numbers in the matrix products of a step, head included, table not."""
    return sum(inputs * outputs for inputs, outputs, _ in product_shapes(widths))


def cache_bytes_of(widths: Widths, tokens: int) -> int:
    """What a step behind so many tokens reads of keys and values."""
    return 2 * widths.layers * widths.kv_heads * widths.head_dim * tokens * KEY_BYTES


class LlamaServer:
    """A process that holds a model and does what it is told; its threads sleep meanwhile."""

    def __init__(self, path: Path, threads: int, context: int = CONTEXT) -> None:
        """Waits until the model is loaded."""
        self._process = subprocess.Popen(
            [ENVIRONMENT.python, "-I", HERE / "llama_worker.py", "serve", path, str(threads), str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.system = str(self._read()["system"])

    def prefill(self, tokens: int) -> None:
        """So many tokens at once."""
        self._ask({"do": "append", "tokens": tokens, "start": 0})

    def decode(self, past: int) -> None:
        """One token behind so many."""
        self._ask({"do": "append", "tokens": 1, "start": past})

    def rewind(self, length: int) -> None:
        """Forgets what is behind."""
        self._ask({"do": "rewind", "length": length})

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, object]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        found: dict[str, Any] = json.loads(line)
        return found
