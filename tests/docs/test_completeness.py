"""The documentation names what there is: every error, field, graph input, verb and page."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT

from neo_edge import errors
from neo_edge.cli import installed_commands
from neo_edge.config import DecoderConfig, ModelConfig, VisionConfig
from neo_edge.engines import EngineKey, EngineLimits, EngineSet
from neo_edge.manifest import Calibration, FileEntry, Manifest, Producer, TokenEmbedding, Variant
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.backend import Backend, DecoderInputs, DecoderState

DOCS = ROOT / "docs"
ERRORS = [name for name, value in vars(errors).items() if isinstance(value, type)]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(page: str) -> set[str]:
    """What stands in backticks in the first column of the page's tables, arguments left out."""
    return set(re.findall(r"^\| `([\w.*]+)[`(]", read(page), re.MULTILINE))


def test_troubleshooting_has_an_entry_for_each_error_and_for_no_other() -> None:
    assert sorted(re.findall(r"^### (\w+)$", read("troubleshooting.md"), re.MULTILINE)) == sorted(ERRORS)


def test_troubleshooting_draws_the_tree_of_errors() -> None:
    tree = re.findall(r"^([│├└─ ]*)(\w+Error)\b", read("troubleshooting.md"), re.MULTILINE)
    drawn = {name: len(branch) // 4 for branch, name in tree}

    def depth(kind: type) -> int:
        return 0 if kind is errors.NeoEdgeError else 1 + depth(kind.__bases__[0])

    assert drawn == {name: depth(getattr(errors, name)) for name in ERRORS}


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Manifest, ""),
        (Producer, "producer."),
        (SpecialTokens, "special_tokens."),
        (FileEntry, "files.*."),
        (Calibration, "calibrations.*."),
        (Variant, ""),
        (TokenEmbedding, "token_embedding."),
        (EngineSet, ""),
        (EngineKey, "key."),
        (EngineLimits, "key.limits."),
        (ModelConfig, ""),
        (VisionConfig, "vision."),
        (DecoderConfig, "decoder."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_bundle_page_has_every_field_of_the_manifest(kind: type, prefix: str) -> None:
    missing = {prefix + field.name for field in fields(kind)} - first_cells("bundle.md")
    assert missing <= {
        "vision",
        "decoder",
        "key",
        "key.limits",
    }  # objects of the model, whose fields are listed


def test_the_graph_page_has_every_input_and_output_with_its_dimensions() -> None:
    from neo_edge.config import load_config
    from neo_edge_export import graph_contract

    config = load_config(ROOT / "tests" / "golden" / "tiny")
    ports = [
        *graph_contract.vision_inputs(config),
        *graph_contract.vision_outputs(config, "fp32"),
        *graph_contract.decoder_inputs(config.decoder, "fp32"),
        *graph_contract.decoder_outputs(config.decoder, "fp32", "modern"),
        *graph_contract.decoder_outputs(config.decoder, "fp32", "portable"),
    ]
    names = {re.sub(r"\.\d+$", ".i", port.name) for port in ports}
    rows = dict(
        re.findall(r"^\| `([\w.]+)` \| (?:in|out)[^|]*\| ([^|]*)\|", read("graph-contract.md"), re.MULTILINE)
    )
    assert set(rows) == names
    for port in ports:
        shape = rows[re.sub(r"\.\d+$", ".i", port.name)]
        assert shape.startswith("as ") or all(
            f"`{dim}`" in shape for dim in port.dims if isinstance(dim, str)
        )


@pytest.mark.parametrize("protocol", [Backend, DecoderState], ids=lambda kind: kind.__name__)
def test_the_backend_page_has_every_member(protocol: type) -> None:
    members = {name for name in vars(protocol) if not name.startswith("_")}
    assert members <= first_cells("backends.md")


def test_the_graph_page_has_what_a_backend_is_given() -> None:
    assert {field.name for field in fields(DecoderInputs)} <= first_cells("graph-contract.md")


def test_getting_started_has_every_verb_and_no_other() -> None:
    verbs = re.findall(r"^\| `neo-edge ([\w-]+)` \|", read("getting-started.md"), re.MULTILINE)
    assert sorted(verbs) == sorted(installed_commands())


def test_the_index_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", read("index.md")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
