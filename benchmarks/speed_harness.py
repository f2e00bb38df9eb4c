"""What the evidence scripts have for speed, for scripts of this folder: they lie in tests/evidence, no package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "evidence"))

from command_line import neo_edge, neo_edge_json
from speed_bundle import SpeedBundle, make_speed_bundle

__all__ = ["SpeedBundle", "make_speed_bundle", "neo_edge", "neo_edge_json"]
