from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from neo_edge import finding
from neo_edge.finding import Finding, Requirement, all_findings, extra_finding, requirements


def test_requirements_are_those_of_the_installed_metadata() -> None:
    found = {(one.extra, one.name): one for one in requirements()}
    assert found["", "numpy"].installed is not None
    assert found["", "numpy"].met
    assert found["export", "torch"].specifier == ">=2.8"
    assert found["export", "onnxruntime"].specifier != found["cpu", "onnxruntime"].specifier
    assert not any(name == "neo-edge" for _, name in found)
    assert requirements("no-such-distribution") == []


@pytest.mark.parametrize(
    ("installed", "specifier", "met"),
    [
        (None, ">=1.0", False),
        ("1.25.0", ">=1.25", True),
        ("1.9", ">=1.25", False),
        ("2.13.0+cpu", ">=2.8", True),
        ("2.8rc1", ">=2.8", True),
        ("10.16.0.5", ">=10.3", True),
        ("0.1", "", True),
    ],
)
def test_a_requirement_is_met_by_what_is_new_enough(installed: str | None, specifier: str, met: bool) -> None:
    assert Requirement("x", specifier, "", installed).met is met


def test_an_incomplete_extra_has_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        Requirement("there", ">=1", "two", "1.5"),
        Requirement("old", ">=2", "two", "1.5"),
        Requirement("gone", "", "two", None),
    ]
    monkeypatch.setattr(finding, "requirements", lambda: lines)
    assert extra_finding("do it", "two") == Finding(
        "do it", False, "old 1.5 (needs >=2), gone (not installed)", 'pip install "neo-edge[two]"'
    )
    monkeypatch.setattr(finding, "requirements", lambda: lines[:1])
    assert extra_finding("do it", "two") == Finding("do it", True, "there 1.5")


def test_other_packages_add_findings_and_a_broken_one_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        EntryPoint("b", "neo_edge.no_such_module:findings", finding.GROUP),
        EntryPoint("a", "neo_edge.finding:findings", finding.GROUP),
    ]
    monkeypatch.setattr(finding, "entry_points", lambda group: asked if group == finding.GROUP else [])
    *own, broken = all_findings()
    assert [one.what for one in own] == [one.what for one in finding.findings()]
    assert not broken.works
    assert "no_such_module" in broken.why
    assert broken.cure
