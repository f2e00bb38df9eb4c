"""What the evidence about large models rests on: phases, their peaks, and the refusal of a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import watched_process
from preset_size import parameters, preset_model, require_disk
from watched_process import LAST_PHASE, watch

PROGRAM = """
import pathlib, sys, time
def wait_until_seen(least, most):
    while not least <= int(pathlib.Path(sys.argv[1]).read_text() or -1) < most:
        time.sleep(0.01)
block = bytearray(64 << 20)
wait_until_seen(64 << 20, 1 << 40)
print("tracing: 1/2 precisions", file=sys.stderr, flush=True)
del block
print("tracing: 2/2 precisions", file=sys.stderr, flush=True)
wait_until_seen(0, 64 << 20)
print("the result")
"""


def test_memory_is_seen_phase_by_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, look = tmp_path / "seen", watched_process._anonymous_bytes
    seen.touch()

    def looking(pid: int) -> int:
        found = look(pid)
        seen.write_text(str(found))
        return found

    monkeypatch.setattr(watched_process, "_anonymous_bytes", looking)
    monkeypatch.setattr(watched_process, "command", lambda: [sys.executable, "-c", PROGRAM, str(seen)])
    watched = watch()
    assert watched.output == "the result\n"
    assert list(watched.phases) == ["tracing", LAST_PHASE]
    tracing, rest = watched.phases.values()
    assert tracing.peak_anonymous_bytes - rest.peak_anonymous_bytes > 48 << 20
    assert watched.seconds == pytest.approx(tracing.seconds + rest.seconds)


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_process, "command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(subprocess.CalledProcessError) as caught:
        watch()
    assert caught.value.returncode == 3


def test_a_disk_that_is_too_small_ends_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_disk(tmp_path / "out", 1)
    with pytest.raises(SystemExit) as caught:
        require_disk(tmp_path / "out", 1 << 60)
    assert caught.value.code == 2
    assert "choose another with --out" in capsys.readouterr().err


def test_presets_have_their_published_sizes() -> None:
    assert parameters(preset_model("2b", None)) == 2_896_618_496
    assert parameters(preset_model("9b", None)) == 10_246_797_312
