"""Which products a target drop keeps in higher precision: those whose outputs are noisiest first."""

from __future__ import annotations

import math
from collections.abc import Mapping

from neo_edge.manifest import OpsProfile
from neo_edge_export.quantization.recipe import LayerRule

_FIRST_SHARE = 1 / 16  # of the products, in the first round


def finer_rules(
    rules: Mapping[str, LayerRule], snr_db: Mapping[str, float], profile: OpsProfile, rounds: int
) -> dict[str, LayerRule]:
    """New rules for the most sensitive products that are not float yet.

    Args:
        rules: by product, as they were written.
        snr_db: by product, what that left of its outputs on the rows that calibration sampled; those without a
            figure have no noise.
        profile: of the variant.
        rounds: how many sixteenths of the products to take; doubling it makes a few rounds enough.

    Returns:
        The next finer rule of each; empty when all are float.
    """
    rounded = [name for name, rule in rules.items() if rule.scheme != "float"]
    # 4 bits go first: where their errors are compensated, that is by the very rows that the figures are from.
    rounded.sort(key=lambda name: (rules[name].scheme != "w4", snr_db.get(name, math.inf)))
    count = max(1, round(_FIRST_SHARE * rounds * len(rules)))
    return {name: rules[name].finer(profile) for name in rounded[:count]}
