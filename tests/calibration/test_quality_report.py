"""The report: verdicts, what goes into the manifest, text of 80 columns, a page that needs nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from neo_edge.errors import InputError
from neo_edge_calibration.quality import default_target
from neo_edge_calibration.quality.page import page
from neo_edge_calibration.quality.report import (
    KL_EDGES,
    FamilyQuality,
    QualityReport,
    TokenQuality,
    VariantBytes,
)

HISTOGRAM = (3, *[0] * 9, 40, 7, *[0] * (len(KL_EDGES) - 12), 1)


def family(name: str, lost: int, gained: int, count: int = 2000, wrong: int = 10) -> FamilyQuality:
    right = count - wrong
    return FamilyQuality(name, count, right, right - lost + gained, lost, gained)


def report(*families: FamilyQuality, target_drop: float = 0.01) -> QualityReport:
    return QualityReport(
        variant="int8",
        reference="fp32",
        precision="int8",
        target_drop=target_drop,
        families=families,
        tokens=TokenQuality(51, 0.98, 2.5e-4, 3e-3, 150.0, HISTOGRAM, 1.2, 1.25),
        size=VariantBytes(1000, 200_000, 30_000),
        reference_size=VariantBytes(900, 800_000, 120_000),
        layer_snr_db={"layers.0.mlp.down_proj": 18.25, "layers.0.attention.q_proj": math.inf},
        data="two scenes",
        data_digest="ab" * 32,
        provenance={"machine": "a processor <with> & without"},
    )


GOOD, BAD, UNSURE = family("colour", 2, 1), family("box", 90, 10), family("when", 20, 8)


@pytest.mark.parametrize(
    ("families", "verdict", "words"),
    [
        ([GOOD], "met", "Met: the 95 % interval of the drop lies under 1 point in every family."),
        ([GOOD, BAD, UNSURE], "missed", "Missed: the drop is 1 point or more in box."),
        (
            [GOOD, UNSURE],
            "not shown",
            "Not shown: the 95 % interval reaches 1 point in when. About 4000 questions a family could "
            "show it, if they go as these did.",
        ),
    ],
)
def test_the_verdict_is_of_the_whole_interval_in_every_family(
    families: list[FamilyQuality], verdict: str, words: str
) -> None:
    found = report(*families)
    assert (found.verdict, found.conclusion()) == (verdict, words)
    assert found.met == (verdict == "met")


def test_too_few_questions_are_said_to_be_the_cause() -> None:
    few = [family(name, 0, 0, count=380, wrong=0) for name in ("colour", "box")]
    assert report(*few).conclusion() == (
        "Not shown: the 95 % interval reaches 1 point in every family. About 390 questions a family could "
        "show it, if they go as these did."
    )
    assert report(*few, target_drop=0.03).met


def test_no_number_of_questions_is_named_where_the_drop_itself_reaches_the_target() -> None:
    assert report(family("box", 5, 1, count=400)).conclusion() == (
        "Not shown: the 95 % interval reaches 1 point in box. Ask more questions: here 1 point or more was lost, by "
        "chance or not."
    )


@pytest.mark.parametrize(
    ("precision", "target"), [("int8", 0.01), ("int8-dynamic", 0.01), ("fp16", 0.01), ("int4", 0.03)]
)
def test_four_bits_may_lose_three_points_and_others_one(precision: str, target: float) -> None:
    assert default_target(precision) == target


def test_all_families_together_weigh_each_question_alike() -> None:
    whole = report(family("a", 1, 0, count=100), family("b", 0, 3, count=300)).whole
    assert (whole.count, whole.lost, whole.gained, whole.drop) == (400, 1, 3, -0.005)


def test_the_manifest_gets_every_number_as_json_without_infinities() -> None:
    broken = replace(report(GOOD).tokens, perplexity=math.inf)
    found = replace(report(GOOD, UNSURE), tokens=broken).to_manifest()
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read == found
    assert read["verdict"] == "not shown"
    assert read["families"]["when"]["lost"] == 20
    low, high = UNSURE.interval
    assert (read["families"]["when"]["drop_low"], read["families"]["when"]["drop_high"]) == (low, high)
    assert read["tokens"]["kl_p99"] == 3e-3
    assert read["tokens"]["perplexity"] is None
    assert read["layer_snr_db"] == {"layers.0.mlp.down_proj": 18.25, "layers.0.attention.q_proj": None}
    assert read["size_bytes"] == {
        "graphs": 1000,
        "weights": 200_000,
        "token_table": 30_000,
        "total": 231_000,
    }


def test_the_summary_reads_at_80_columns_and_names_what_failed() -> None:
    long = replace(UNSURE, name="a family with a name that is longer than its column")
    text = report(GOOD, BAD, long).summary()
    assert max(map(len, text.splitlines())) <= 80
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["box"].endswith("MISSED")
    assert "4.00" in lines["box"]  # 90 lost and 10 gained of 2,000
    assert lines["colour"].endswith("-0.19 .. 0.32")
    assert lines["layers.0.mlp.down_proj"].endswith("18.2 dB")
    assert lines["layers.0.attention.q_proj"].endswith("exact dB")
    assert "231000" not in text
    assert "25.1%" in lines["bytes"]


class Page(HTMLParser):
    """Collects tags, their attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_every_number_and_escapes_every_name() -> None:
    text = page(report(GOOD, BAD, family("<b>&", 1, 0)))
    read = Page(text)
    for shown in (
        "Missed: the drop is 1 point or more in box.",
        "<b>&",
        "3.09 to 5.04",
        "95.50%",
        "2.50e-04",
        "layers.0.mlp.down_proj",
        "18.2",
        "226 KiB",
        "ab" * 32,
        "a processor <with> & without",
    ):
        assert shown in read.text, shown
    assert "<b>&" not in text


def test_the_page_needs_no_other_file_and_no_script() -> None:
    text = page(report(GOOD, BAD))
    read = Page(text)
    assert {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "embed"} == set()
    assert [attrs for _, attrs in read.tags if {"src", "href", "srcset", "data"} & attrs.keys()] == []
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_drawings_are_well_formed_and_draw_what_was_measured() -> None:
    text = page(report(GOOD, BAD, UNSURE))
    drawings = [
        ElementTree.fromstring(part.split("</svg>")[0].join(["<svg", "</svg>"]))
        for part in text.split("<svg")[1:]
    ]
    intervals, histogram, noise, _ = drawings
    kinds = [group.get("class") for group in intervals.findall("g")]
    assert kinds == ["met", "missed", "notshown"]
    drawn = [bar for bar in histogram.findall("rect") if float(bar.get("height", "0")) > 0]
    assert [bar.findtext("title") for bar in drawn] == [
        "below 1e-10: 3 tokens",
        "3.2e-06 to 1.0e-05: 40 tokens",
        "1.0e-05 to 3.2e-05: 7 tokens",
        "1e+02 or more: 1 tokens",
    ]
    assert [group.findtext("title") for group in noise.findall("g")] == [
        "layers.0.mlp.down_proj: 18.2 dB",
        "layers.0.attention.q_proj: exact",
    ]
    numbers = [
        float(node.get(name, "0"))
        for drawing in drawings
        for node in drawing.iter()
        for name in ("x", "x1", "x2", "y", "width", "height")
    ]
    assert all(0 <= number <= 2000 for number in numbers)


def test_a_page_without_layers_says_that_they_were_not_measured() -> None:
    assert "Not measured for this variant." in page(replace(report(GOOD), layer_snr_db={}))


@pytest.mark.parametrize(
    "snr", [{"w": math.inf}, {"w": -3.0, "v": 2.0}, {f"layer {i}": float(i) for i in range(200)}]
)
def test_any_signal_to_noise_can_be_drawn(snr: dict[str, float]) -> None:
    drawn = page(replace(report(GOOD), layer_snr_db=snr))
    assert all(name in drawn for name in snr)
    assert "nan" not in drawn.lower()


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        report(GOOD).write_html(tmp_path / "no folder" / "r.html")
    report(GOOD).write_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page(report(GOOD))
