"""What was measured of a variant, as numbers: for the manifest, the table and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neo_edge_calibration.quality.interval import drop_interval, questions_expected

if TYPE_CHECKING:
    from neo_edge.manifest_fields import JsonValue

Verdict = Literal["met", "missed", "not shown"]
KL_EDGES = tuple(10 ** (step / 2) for step in range(-20, 5))  # nats: 1e-10 to 100, two bins a decade


@dataclass(frozen=True)
class FamilyQuality:
    """A family of questions that both models answered."""

    name: str
    count: int  # questions
    reference_right: int
    right: int
    lost: int  # questions that only the reference answered rightly
    gained: int  # questions that only the variant answered rightly

    @classmethod
    def counted(cls, name: str, right: Sequence[tuple[bool, bool]]) -> FamilyQuality:
        """Of each question whether the reference, and whether the variant, answered it rightly."""
        return cls(
            name=name,
            count=len(right),
            reference_right=sum(before for before, _ in right),
            right=sum(now for _, now in right),
            lost=sum(before and not now for before, now in right),
            gained=sum(now and not before for before, now in right),
        )

    @property
    def reference_accuracy(self) -> float:
        """Share of right answers of the reference."""
        return self.reference_right / self.count

    @property
    def accuracy(self) -> float:
        """Share of right answers of the variant."""
        return self.right / self.count

    @property
    def drop(self) -> float:
        """Accuracy lost; below zero where some was gained."""
        return (self.lost - self.gained) / self.count

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Paired 95 % interval of the drop, see `drop_interval`."""
        return drop_interval(self.lost, self.gained, self.count)

    def verdict(self, target: float) -> Verdict:
        """Whether the whole interval lies under the target, none of it does, or these questions cannot say."""
        low, high = self.interval
        if high < target:
            return "met"
        return "missed" if low >= target else "not shown"


@dataclass(frozen=True)
class TokenQuality:
    """How alike the two models' next-token probabilities are, over the reference's own answers."""

    count: int  # tokens
    top1_agreement: float  # share whose likeliest token is the same
    kl_mean: float  # KL(reference || variant), nats a token
    kl_p99: float
    kl_max: float
    kl_histogram: tuple[int, ...]  # tokens below KL_EDGES[0], between the edges, and from the last on
    reference_perplexity: float  # of the true answers
    perplexity: float


@dataclass(frozen=True)
class VariantBytes:
    """What a variant takes on disk."""

    graphs: int
    weights: int
    token_table: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.graphs + self.weights + self.token_table


@dataclass(frozen=True)
class QualityReport:
    """The quality of one variant beside a reference."""

    variant: str
    reference: str
    precision: str
    target_drop: float  # share: 0.01 is a point
    families: tuple[FamilyQuality, ...]  # in the order in which they were first asked
    tokens: TokenQuality
    size: VariantBytes
    reference_size: VariantBytes
    layer_snr_db: Mapping[str, float]  # by the weight's name; empty when nobody handed it in
    data: str  # where the questions are from
    data_digest: str  # sha256 of every word and pixel that was asked
    provenance: Mapping[str, str] = field(default_factory=dict)  # bundle, calibration, versions, device, date

    @property
    def whole(self) -> FamilyQuality:
        """All families together, each question with the same weight."""
        return FamilyQuality(
            "all",
            *(
                sum(getattr(family, name) for family in self.families)
                for name in ("count", "reference_right", "right", "lost", "gained")
            ),
        )

    @property
    def verdict(self) -> Verdict:
        """`met` when every family's is; `missed` when one's is."""
        found = {family.verdict(self.target_drop) for family in self.families}
        return "missed" if "missed" in found else "not shown" if "not shown" in found else "met"

    @property
    def met(self) -> bool:
        """Whether the target is met in every family."""
        return self.verdict == "met"

    def conclusion(self) -> str:
        """The verdict as a sentence."""
        target = named_points(self.target_drop)
        if self.verdict == "met":
            return f"Met: the 95 % interval of the drop lies under {target} in every family."
        if self.verdict == "missed":
            return f"Missed: the drop is {target} or more in {self._named('missed')}."
        more = (
            f"Ask more questions: here {target} or more was lost, by chance or not"
            if self.wanted_count is None
            else f"About {self.wanted_count} questions a family could show it, if they go as these did"
        )
        return f"Not shown: the 95 % interval reaches {target} in {self._named('not shown')}. {more}."

    @property
    def wanted_count(self) -> int | None:
        """About how many questions a family could show that the target is met, if they go as these did.

        None where that needs no more, or where the measured drop itself is the target or more.
        """
        needed = [
            questions_expected(self.target_drop, family.lost, family.gained, family.count)
            for family in self.families
            if family.verdict(self.target_drop) != "met"
        ]
        counts = [count for count in needed if count is not None]
        if not counts or len(counts) < len(needed):
            return None
        digit: int = 10 ** max(1, len(str(max(counts))) - 2)  # two digits: the shares are not known better
        return -(-max(counts) // digit) * digit

    def _named(self, verdict: Verdict) -> str:
        found = [family.name for family in self.families if family.verdict(self.target_drop) == verdict]
        return "every family" if len(found) == len(self.families) > 1 else ", ".join(found)

    def to_manifest(self) -> dict[str, JsonValue]:
        """Everything but the histogram, for `Variant.quality`; shares are shares, not percent."""
        return {
            "verdict": self.verdict,
            "target_drop": self.target_drop,
            "reference": self.reference,
            "data": {"source": self.data, "digest": self.data_digest, "questions": self.whole.count},
            "families": {family.name: _family_dict(family) for family in self.families},
            "all": _family_dict(self.whole),
            "tokens": {
                "count": self.tokens.count,
                "top1_agreement": self.tokens.top1_agreement,
                "kl_mean": self.tokens.kl_mean,
                "kl_p99": self.tokens.kl_p99,
                "kl_max": self.tokens.kl_max,
                "perplexity": finite(self.tokens.perplexity),
                "reference_perplexity": finite(self.tokens.reference_perplexity),
            },
            "size_bytes": _bytes_dict(self.size),
            "reference_size_bytes": _bytes_dict(self.reference_size),
            "layer_snr_db": {name: finite(value) for name, value in self.layer_snr_db.items()},
            "measured": dict(self.provenance),
        }

    def summary(self) -> str:
        """A table that reads at 80 columns."""
        from neo_edge_calibration.quality.text import summary

        return summary(self)

    def write_html(self, path: str | Path) -> None:
        """One HTML file that needs nothing else; raises `InputError` when it cannot be written."""
        from neo_edge_calibration.quality.page import write_page

        write_page(self, Path(path))


def show_points(share: float) -> str:
    """A share in points: `0.01` is `1`."""
    return f"{100 * share:g}"


def named_points(share: float) -> str:
    """A share in points, with the word: `0.01` is `1 point`."""
    return f"{show_points(share)} point{'' if share == 0.01 else 's'}"


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: an exactly kept weight has no noise, a broken variant no end of perplexity."""
    return value if math.isfinite(value) else None


def _family_dict(family: FamilyQuality) -> dict[str, JsonValue]:
    low, high = family.interval
    return {
        "count": family.count,
        "reference_accuracy": family.reference_accuracy,
        "accuracy": family.accuracy,
        "drop": family.drop,
        "drop_low": low,
        "drop_high": high,
        "lost": family.lost,
        "gained": family.gained,
    }


def _bytes_dict(size: VariantBytes) -> dict[str, JsonValue]:
    return {
        "graphs": size.graphs,
        "weights": size.weights,
        "token_table": size.token_table,
        "total": size.total,
    }
