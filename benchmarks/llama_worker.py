"""llama.cpp in a process of its own; run by the peer's own interpreter, which has `llama_cpp`.

    python llama_worker.py quantize SOURCE TARGET TYPE PURE THREADS
    python llama_worker.py serve FILE THREADS CONTEXT

`serve` reads one JSON request a line and answers each with one line when it is done.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

_TOKEN = 7
_DIFFERENT = 97  # ids that fill a cache; every vocabulary has as many
_kept: list[Any] = []  # callbacks, of which the library holds only the addresses


def quantize(source: Path, target: Path, kind: str, *, pure: bool, threads: int) -> None:
    """Writes `target` in a type such as `Q4_0`; pure: the head in that type too, where the default is a finer one."""
    llama_cpp = _library()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.pure, parameters.nthread = pure, threads
    failed = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters))
    if failed:
        raise SystemExit(f"llama.cpp could not quantize {source} to {kind}: {failed}")


class Model:
    """A loaded file and one sequence."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        llama_cpp = _library()
        self._lib = llama_cpp
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = context  # a prompt in one piece
        options.n_threads = options.n_threads_batch = threads
        self._model = llama_cpp.llama_model_load_from_file(
            bytes(path), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise SystemExit(f"llama.cpp cannot open {path} for {context} tokens")
        self._batch = llama_cpp.llama_batch_init(context, 0, 1)

    def rewind(self, length: int) -> None:
        """Forgets what is behind `length` tokens."""
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_seq_rm(memory, 0, length, -1)

    def append(self, tokens: int, start: int) -> None:
        """Runs so many tokens at once, with the logits of the last; they are waited for."""
        batch = self._batch
        batch.n_tokens = tokens
        for number in range(tokens):
            batch.token[number] = _TOKEN if tokens == 1 else number % _DIFFERENT
            batch.pos[number] = start + number
            batch.n_seq_id[number] = 1
            batch.seq_id[number][0] = 0
            batch.logits[number] = number == tokens - 1
        failed = self._lib.llama_decode(self._context, batch)
        if failed:
            raise SystemExit(f"llama_decode failed: {failed}")
        self._lib.llama_synchronize(self._context)

    def system(self) -> str:
        """The instruction sets that it uses."""
        return str(self._lib.llama_print_system_info().decode())


def serve(path: Path, threads: int, context: int) -> None:
    """Answers requests until its input ends."""
    model = Model(path, threads, context)
    print(json.dumps({"system": model.system()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "rewind":
            model.rewind(request["length"])
        else:
            model.append(request["tokens"], request["start"])
        print("{}", flush=True)


def _library() -> Any:
    """The peer's bindings, which have no types, ready; the script of that name beside this one is not meant."""
    library = importlib.import_module("llama_cpp")
    _kept.append(library.llama_log_callback(_drop))
    library.llama_log_set(_kept[-1], ctypes.c_void_p(0))
    library.llama_backend_init()
    return library


def _drop(level: int, text: bytes, _: object) -> None:
    """Takes what the library logs; errors (4) are shown."""
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        quantize(
            Path(sys.argv[2]),
            Path(sys.argv[3]),
            sys.argv[4],
            pure=sys.argv[5] == "pure",
            threads=int(sys.argv[6]),
        )
    else:
        serve(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
