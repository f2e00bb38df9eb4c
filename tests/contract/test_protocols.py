from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neo_edge.config import VisionConfig, load_config
from neo_edge.errors import InputError
from neo_edge.patch_grid import smart_resize
from neo_edge.protocols import PROTOCOLS, get_protocol


@pytest.fixture
def vision(golden_tiny: Path) -> VisionConfig:
    return load_config(golden_tiny).vision


# The numbers of upstream's evaluation settings.
@pytest.mark.parametrize(
    ("name", "limits", "system", "new_tokens"),
    [
        ("neo-ov-image", (1310720, 16777216), "Reason step by step.", 16384),
        ("neo-ov-video", (4096, 230400), "Reason step by step.", 16384),
        ("neo-ov-spatial", (691200, 691200), "", 4096),
        ("neo1.0", (1310720, 4194304), "", 4096),
    ],
)
def test_upstreams_presets_keep_its_numbers_whatever_the_checkpoint_says(
    vision: VisionConfig, name: str, limits: tuple[int, int], system: str, new_tokens: int
) -> None:
    protocol = get_protocol(name)
    assert protocol.pixel_limits(vision) == limits
    assert protocol.pixel_limits(replace(vision, min_pixels=1, max_pixels=2)) == limits
    assert protocol.system_prompt == system
    assert protocol.sampling.max_new_tokens == new_tokens


def test_upstreams_reasoning_presets_sample_and_the_others_are_greedy() -> None:
    sampled = {name: not protocol.sampling.greedy for name, protocol in PROTOCOLS.items()}
    assert sampled == {
        "edge": False,
        "neo-ov-image": True,
        "neo-ov-video": True,
        "neo-ov-spatial": False,
        "neo1.0": False,
    }
    ov = get_protocol("neo-ov-image").sampling
    assert (ov.temperature, ov.top_p, ov.top_k, ov.repetition_penalty) == (0.6, 0.95, 20, 1.05)


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (4000, 3000), (640, 480), (33, 900)])
def test_edge_gives_a_picture_at_most_1024_tokens(vision: VisionConfig, width: int, height: int) -> None:
    low, high = get_protocol("edge").pixel_limits(vision)
    assert low == vision.min_pixels
    size = smart_resize(height, width, token_size=32, min_pixels=low, max_pixels=high)
    assert size[0] * size[1] // 32**2 <= 1024


def test_edge_keeps_a_checkpoints_own_smaller_limit(vision: VisionConfig) -> None:
    small = replace(vision, min_pixels=4096, max_pixels=102400)
    assert get_protocol("edge").pixel_limits(small) == (4096, 102400)


def test_limits_never_cross_when_a_checkpoint_starts_above_the_edge(vision: VisionConfig) -> None:
    large = replace(vision, min_pixels=4_000_000, max_pixels=4_000_000)
    assert get_protocol("edge").pixel_limits(large) == (1024 * 1024, 1024 * 1024)


def test_an_unknown_protocol_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"'fast'.*edge, neo-ov-image"):
        get_protocol("fast")
