"""The worst differences from what upstream's code computed: the PyTorch reference, and every exported variant.

Exports the tiny golden checkpoint in both precisions and both profiles, and replays each golden prompt with
`neo-edge parity`, whole and in chunks, also after a rewind and in a fork.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from command_line import neo_edge, neo_edge_json

from neo_edge.checkpoint import open_checkpoint
from neo_edge.positions import layout
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge_export.reference import KeyValueCache, NeoModel, allowed_by_time
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.golden import GoldenCase, read_golden

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
CASES = sorted(GOLDEN.glob("*.npz"))
REFERENCE_ATOL = 1e-4
CHUNK_TOKENS = 16
PARITY_COLUMNS = (
    "positions",
    "pixels",
    "visual_tokens",
    "prefill_logits",
    "decode_logits",
    "after_rewind",
    "after_fork",
)


def main() -> int:
    """Prints two tables; 1 when a difference is above its tolerance."""
    passed = _print_reference()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "tiny.bundle"
        precisions = ["--precision", "fp32", "--precision", "fp16"]
        neo_edge("export", GOLDEN, "-o", bundle, *precisions, "--ops", "modern", "--ops", "portable")
        for mode in ([], ["--chunked"]):
            passed &= _print_bundle(bundle, mode)
    return 0 if passed else 1


def _print_reference() -> bool:
    model = load_reference(open_checkpoint(GOLDEN))
    worst: dict[str, float] = {}
    for path in CASES:
        for of, difference in _reference_differences(model, path).items():
            worst[of] = max(worst.get(of, 0.0), difference)
    print(f"\nPyTorch reference, worst of {len(CASES)} prompts, allowed {REFERENCE_ATOL:.0e}")
    for of, difference in worst.items():
        print(f"  {of:40} {difference:.2e}")
    return max(worst.values()) <= REFERENCE_ATOL


@torch.inference_mode()
def _reference_differences(model: NeoModel, path: Path) -> dict[str, float]:
    case = read_golden(path, model.config)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: torch.from_numpy(archive[name]) for name in archive.files if archive[name].ndim}
    ids, positions = arrays["input_ids"], arrays["indexes"][None]
    visual = ids == resolve_special_tokens(None, model.config).img_context
    embeds = model.embed(ids, visual, arrays["pixel_values"], arrays["grid_hw"])
    allow, length = allowed_by_time(positions[:, 0]), len(ids)
    cache = KeyValueCache.empty(model.config.decoder, length + len(arrays["decode_tokens"]))
    hidden: list[torch.Tensor] = []
    normed = model.language_model.model(embeds, positions, allow, cache, hidden)
    prefill, decode, caches = arrays["prefill_logits"], arrays["decode_logits"], [cache.keys, cache.values]
    found = {
        "input embeddings": _worst(embeds[0], arrays["inputs_embeds"]),
        "hidden layers": _worst(torch.cat(hidden), arrays["hidden_layers"]),
        "prefill logits, every position": _worst(model.language_model.lm_head(normed)[0], prefill),
        "key and value caches": max(
            _worst(mine[0, :, :length], golden)
            for side, name in zip(caches, ("k_cache", "v_cache"), strict=True)
            for mine, golden in zip(side, arrays[name], strict=True)
        ),
        "decode logits": _decode(model, arrays, cache),
    }
    cache.length = length
    found["decode logits after a rewind"] = _decode(model, arrays, cache)
    cache.length, start = 0, 0
    chunked = []
    for end in _chunk_ends(model, case):
        piece = model.language_model(
            embeds[:, start:end], positions[..., start:end], allow[:, :, start:end, :end], cache
        )
        chunked.append(piece[0])
        start = end
    found["prefill logits in chunks"] = _worst(torch.cat(chunked), prefill)
    found["decode logits behind the chunks"] = _decode(model, arrays, cache)
    return found if len(decode) else {}


def _decode(model: NeoModel, arrays: dict[str, torch.Tensor], cache: KeyValueCache) -> float:
    worst = 0.0
    for step, thw in enumerate(arrays["decode_indexes"]):
        embeds = model.language_model.model.embed_tokens(arrays["decode_tokens"][step]).view(1, 1, -1)
        allow = torch.ones(1, 1, 1, cache.length + 1, dtype=torch.bool)
        logits = model.language_model(embeds, thw.view(1, 3, 1), allow, cache)
        worst = max(worst, _worst(logits[0, 0], arrays["decode_logits"][step + 1]))
    return worst


def _chunk_ends(model: NeoModel, case: GoldenCase) -> list[int]:
    """Legal ends that are at least `CHUNK_TOKENS` apart, and the prompt's."""
    tokens = resolve_special_tokens(None, model.config)
    ends = layout(case.input_ids, case.grids, tokens).boundaries.tolist()
    kept: list[int] = []
    for end in ends:
        if end - (kept[-1] if kept else 0) >= CHUNK_TOKENS or end == ends[-1]:
            kept.append(end)
    return kept


def _print_bundle(bundle: Path, mode: list[str]) -> bool:
    variants = neo_edge_json("parity", bundle, *CASES, *mode)["variants"]
    print(
        f"\nbundle in ONNX Runtime, prefill {'in chunks' if mode else 'whole'}, worst of {len(CASES)} prompts"
    )
    print(f"  {'':14}" + "".join(f"{name.replace('_', ' '):>16}" for name in (*PARITY_COLUMNS, "allowed")))
    for name, variant in variants.items():
        worst = [max(case[column] for case in variant["cases"].values()) for column in PARITY_COLUMNS]
        print(f"  {name:14}" + "".join(f"{value:16.1e}" for value in [*worst, variant["allowed"]]))
    return all(variant["passed"] for variant in variants.values())


def _worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max()) if expected.numel() else 0.0


if __name__ == "__main__":
    sys.exit(main())
