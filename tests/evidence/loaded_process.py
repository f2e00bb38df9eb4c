"""A process of its own that loads a variant and says what that took; also the program that runs in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

_TOUCHED = 16  # tokens of the prefill, and then one of a decode step, that touch every weight


class LoadedProcess:
    """The process; it keeps the model until it is left."""

    def __init__(self, bundle: Path, variant: str, prepacked: str, threads: int) -> None:
        """Waits until the model is loaded; `prepacked` as `neo_edge.load` has it."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, bundle, variant, prepacked, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.load_seconds = self._read()["seconds"]

    def memory(self) -> dict[str, float]:
        """Bytes, without what the process had before it loaded: `private` to it, and `proportional` (Pss)."""
        assert self._process.stdin is not None
        print("memory", file=self._process.stdin, flush=True)
        return self._read()

    def __enter__(self) -> LoadedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        found: dict[str, float] = json.loads(line)
        return found


def _main(path: str, variant: str, prepacked: str, threads: int) -> None:
    import numpy as np
    import onnxruntime  # noqa: F401 - loading it is not the model's loading

    from neo_edge.bundle import open_bundle
    from neo_edge.positions import layout
    from neo_edge_runtime.ort_backend import OrtBackend
    from neo_edge_runtime.prompt_assembly import text_only_tokens
    from neo_edge_runtime.session import Session

    bundle, before = open_bundle(path), _memory()
    started = time.perf_counter()
    backend = OrtBackend(bundle, variant, threads=threads, prepacked=prepacked)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    assert backend.prepacked == (prepacked != "off")
    print(json.dumps({"seconds": seconds}), flush=True)
    ids = np.zeros(_TOUCHED, np.int64)
    with Session(backend) as session:
        session.prefill(ids, layout(ids, [], text_only_tokens(bundle.manifest.model)))
        session.decode(1)
    for _ in sys.stdin:
        now = _memory()
        print(json.dumps({name: now[name] - before[name] for name in now}), flush=True)


def _memory() -> dict[str, int]:
    text = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8")
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    return {"private": sizes["Private_Clean"] + sizes["Private_Dirty"], "proportional": sizes["Pss"]}


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
