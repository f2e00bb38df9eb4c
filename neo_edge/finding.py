"""What `neo-edge doctor` says about an installation: each stage, and any other package, adds its own findings."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version

GROUP = "neo_edge.doctor"  # entry points: callables that give `Finding`s
PACKAGE = "neo-edge"

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_PLATFORM = re.compile(r"""sys_platform\s*==\s*['"]([^'"]+)['"]""")


@dataclass(frozen=True)
class Finding:
    """One thing that a user may want to do, and whether this installation does it."""

    what: str  # "export checkpoints"
    works: bool
    why: str  # what was found
    cure: str = ""  # what to do where it does not work; empty: nothing helps


@dataclass(frozen=True)
class Requirement:
    """A package that neo-edge names, and what is installed of it."""

    name: str
    specifier: str  # as pyproject.toml has it: ">=1.25"
    extra: str  # empty: always needed
    installed: str | None  # version

    @property
    def met(self) -> bool:
        """Whether it is there and new enough."""
        if self.installed is None:
            return False
        least = re.search(r">=\s*([0-9.]+)", self.specifier)
        return least is None or _numbers(self.installed) >= _numbers(least[1])

    def __str__(self) -> str:
        if self.installed is None:
            return f"{self.name} (not installed)"
        return f"{self.name} {self.installed}" + ("" if self.met else f" (needs {self.specifier})")


def requirements(package: str = PACKAGE) -> list[Requirement]:
    """Every package that an installed distribution names for this platform; other extras of its own left out.

    Read from its metadata, so nothing is imported.
    """
    try:
        lines = distribution(package).requires or []
    except PackageNotFoundError:
        return []
    found = []
    for line in lines:
        matched = _REQUIREMENT.fullmatch(line)
        if matched is None or matched[1].lower() == package:
            continue
        name, specifier, marker = matched[1], matched[2].strip(), matched[3] or ""
        platform = _PLATFORM.search(marker)
        if platform is None or platform[1] == sys.platform:
            extra = _EXTRA.search(marker)
            found.append(Requirement(name, specifier, extra[1] if extra else "", installed_version(name)))
    return found


def installed_version(name: str) -> str | None:
    """Of a distribution; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def extra_finding(what: str, extra: str) -> Finding:
    """Whether everything that an extra of neo-edge brings is there."""
    needed = [requirement for requirement in requirements() if requirement.extra == extra]
    unmet = [requirement for requirement in needed if not requirement.met]
    shown = ", ".join(map(str, unmet or needed))
    return Finding(what, not unmet, shown, f'pip install "{PACKAGE}[{extra}]"' if unmet else "")


def findings() -> Iterable[Finding]:
    """The contract's own."""
    yield extra_finding("fetch checkpoints by their Hugging Face id", "hub")
    yield extra_finding("complete commands in the shell (neo-edge completion)", "completion")


def all_findings() -> list[Finding]:
    """What every installed package has to say; one that cannot be asked is a finding itself."""
    found: list[Finding] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            ask: Callable[[], Iterable[Finding]] = entry.load()
        except (ImportError, AttributeError) as error:
            found.append(Finding(f"ask {entry.value}", False, str(error), "install its package again"))
            continue
        found += ask()
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", text.partition("+")[0])[:3])
