"""The tiny golden model's decoder and random prompts for it, with pictures."""

from __future__ import annotations

import numpy as np
from ort_driver import OrtDriver
from quantized_decoder import DecoderGraph, Prompt

from neo_edge.bundle import Bundle
from neo_edge_export.random_prompt import random_prompt


def tiny_decoder(bundle: Bundle) -> DecoderGraph:
    """Its float32 decoder of the modern profile."""
    return DecoderGraph(bundle.path(bundle.variant("fp32").decoder), bundle.manifest.model.decoder)


def random_prompts(bundle: Bundle, count: int) -> list[Prompt]:
    """`count` prompts of 30 to 60 tokens."""
    manifest = bundle.manifest
    driver = OrtDriver(bundle.path(bundle.variant("fp32").decoder).parent, manifest.model, "modern")
    prompts = []
    for seed in range(count):
        prompt = random_prompt(manifest.model, manifest.special_tokens, seed)
        embeds = driver.embedding[prompt.input_ids].astype(np.float32)
        embeds[prompt.layout.is_visual] = driver.vision(prompt.packed_patches, prompt.patch_xy)
        positions, visible = prompt.layout.position_ids, prompt.layout.visible_length
        prompts.append(Prompt(embeds, positions.astype(np.int32), visible.astype(np.int32)))
    return prompts
