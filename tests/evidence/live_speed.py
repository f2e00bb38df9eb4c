"""What watching costs on the CPU: a frame's cost at 64 and at 500, a question's first token, and memory to frame 2,000.

`neo-edge bench --live` with the policy `drop` and a window of 64 frames, each model in a process of its own: the nano
and the preset `500m` (random weights), both in fp32 and with frames of 16 visual tokens, so that 2,000 of them end in
minutes; a camera's usual 200 would make the cold question dearer, and the watched one hardly. Presets have no
tokenizer: the stand-in writes a token a byte, about as many as Qwen3's for a timestamp, and 14 for the question. On two
cores that do nothing else the nano takes two minutes and 500m a quarter of an hour; `--models neo-ov-nano` and
`--last 500` take less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import neo_edge, neo_edge_json
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from neo_edge.checkpoint_presets import PRESETS
from neo_edge.tokens import END_OF_TEXT, IM_END, IM_START, IMG_CONTEXT, IMG_END, IMG_START
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores

FRAME_RATIO_ALLOWED, WARM_SHARE_ALLOWED, MEMORY_CHANGE_ALLOWED = 1.15, 1 / 20, 0.05
EARLY, LATE = 64, 500  # frames whose costs are compared
SETTLED, LAST = 200, 2000  # and whose memory is
PLOTS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Watched:
    """One model and how it is watched."""

    name: str
    frame_side: int  # pixels, of the camera and of the model: its square is the area of a frame
    repetitions: int


MODELS = (Watched("neo-ov-nano", 128, 3), Watched("500m", 128, 1))


def main() -> int:
    """Prints each model's tables and the three comparisons; 1 when one misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(model.name for model in MODELS), metavar="NAME,NAME")
    parser.add_argument("--last", type=int, default=LAST, metavar="N", help="frames of a session")
    parser.add_argument("--threads", type=int, default=usable_physical_cores(), metavar="N")
    parser.add_argument(
        "--plots", type=Path, default=PLOTS, metavar="DIR", help="live-speed-MODEL.svg go there"
    )
    args = parser.parse_args()
    describe_device(args.threads)
    missed = 0
    for model in MODELS:
        if model.name in args.models.split(","):
            with tempfile.TemporaryDirectory() as folder:
                bundle = _export(model.name, Path(folder))
                missed += _watch(model, bundle, args)
    return 1 if missed else 0


def _watch(model: Watched, bundle: Path, args: argparse.Namespace) -> int:
    plot = args.plots / f"live-speed-{model.name.removeprefix('neo-ov-')}.svg"
    side = model.frame_side
    frames = [frame for frame in (10, EARLY, 100, LATE) if frame < args.last] + [args.last]
    found = neo_edge_json(
        *("bench", bundle, "--live", "--threads", args.threads, "--repetitions", model.repetitions),
        *("--image-size", f"{side}x{side}", "--max-pixels", side * side),
        *("--frames", ",".join(map(str, frames)), "--plot", plot.absolute()),
    )
    print(
        f"\n{model.name}: {found['variant']}, {args.threads} threads, {found['visual_tokens']} visual tokens a frame, "
        f"a window of {found['max_frames']} frames, {found['policy']}; sessions: {model.repetitions}; drawn in "
        f"{plot.name}\n"
    )
    stages = list(found["frames"][0]["stages"])
    print(f"| | ms a frame | {' | '.join(f'{stage}, %' for stage in stages)} |")
    print(f"|---|---:|{'---:|' * len(stages)}")
    for row in found["frames"]:
        whole = row["seconds"]["median"]
        shares = [100 * row["stages"][stage]["median"] / whole for stage in stages]
        cells = " | ".join(f"{share:.1f}" for share in shares)
        print(f"| frame {row['frame']} | {1e3 * whole:.2f} | {cells} |")
    print()
    return sum(
        (
            _frames_cost_the_same(found),
            _watching_pays(found["first_token"]),
            _memory_stays(found["resident_bytes"]),
        )
    )


def _frames_cost_the_same(found: dict[str, Any]) -> bool:
    seconds = {row["frame"]: np.array(row["seconds"]["all"]) for row in found["frames"]}
    if LATE not in seconds:
        print(f"  too short for frame {LATE}")
        return True
    ratio = float(np.median(seconds[LATE] / seconds[EARLY]))
    return _line(
        f"a frame at {LATE} over one at {EARLY}, means of {found['averaged_frames']}",
        ratio,
        FRAME_RATIO_ALLOWED,
    )


def _watching_pays(first: dict[str, Any]) -> bool:
    watched, cold = (np.array(first[kind]["all"]) for kind in ("watched", "cold"))
    what = (
        f"first token with {first['question_frames']} frames, watched {1e3 * np.median(watched):.1f} ms over cold "
        f"{1e3 * np.median(cold):.1f} ms"
    )
    return _line(what, float(np.median(watched / cold)), WARM_SHARE_ALLOWED)


def _memory_stays(resident: list[int | None]) -> bool:
    settled, last = resident[min(SETTLED, len(resident)) - 1], resident[-1]
    assert settled is not None
    assert last is not None
    what = (
        f"resident memory behind frame {len(resident)}, {last / 2**20:.1f} MiB, beside that behind frame {SETTLED}, "
        f"{settled / 2**20:.1f} MiB: change"
    )
    return _line(what, abs(last / settled - 1), MEMORY_CHANGE_ALLOWED)


def _line(what: str, value: float, allowed: float) -> bool:
    missed = value > allowed
    print(f"  {what}: {value:.3f}, allowed {allowed:.3g}{': MISSED' if missed else ''}", flush=True)
    return missed


def _export(name: str, folder: Path) -> Path:
    checkpoint: str | Path = name
    if name in PRESETS:
        checkpoint = folder / "checkpoint"
        neo_edge("make-checkpoint", "--preset", name, "-o", checkpoint)
        write_byte_tokenizer(checkpoint, name)
    bundle = folder / f"{name}.bundle"
    neo_edge("export", checkpoint, "-o", bundle, "--precision", "fp32")
    return bundle


def write_byte_tokenizer(checkpoint: Path, preset: str) -> None:
    """Writes tokenizer.json: an id a byte, and the special tokens where the preset has them."""
    image, end = PRESETS[preset].img_context_id, PRESETS[preset].eos_id
    specials = {
        **dict(zip((END_OF_TEXT, IM_START, IM_END), range(end - 2, end + 1), strict=True)),
        **dict(zip((IMG_CONTEXT, IMG_START, IMG_END), range(image, image + 3), strict=True)),
    }
    bytes_ = {
        character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    fillers = {f"<unused {number}>": number for number in range(len(bytes_), image + 3)}
    used = set(specials.values())
    vocab = {
        **bytes_,
        **{word: number for word, number in fillers.items() if number not in used},
        **specials,
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(checkpoint / "tokenizer.json"))


if __name__ == "__main__":
    sys.exit(main())
