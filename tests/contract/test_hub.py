"""A Hugging Face id is fetched where nothing local has that name; without a network the error says how."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.errors import CheckpointError, HubError, MissingExtraError
from neo_edge.hub import FILES, HubId, fetch_checkpoint, parse_hub_id

DOWNLOAD_LINE = (
    'hf download Paranioar/NEO1_0-2B-SFT --include "*.safetensors" --include "*.json" --include "*.jinja" '
    '--include "*.txt" --local-dir NEO1_0-2B-SFT'
)


class FakeHub:
    """Notes what is asked for and hands out one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[HubId] = []

    def __call__(self, wanted: HubId) -> str:
        self.asked.append(wanted)
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub, and an empty working folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return FakeHub(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paranioar/NEO1_0-2B-SFT", HubId("Paranioar/NEO1_0-2B-SFT")),
        ("a/b.c@v1.0", HubId("a/b.c", "v1.0")),
        ("a/b@refs/pr/1", HubId("a/b", "refs/pr/1")),
        ("neo-ov-nano", None),
        ("./a/b", None),
        ("../b", None),
        ("/a/b", None),
        ("~/b", None),
        ("a/b/c", None),
        ("a/b/", None),
        ("a/b@", None),
        ("a/-b", None),
        ("a b/c", None),
        ("https://huggingface.co/a/b", None),
        ("\u00e4/b", None),
        ("", None),
    ],
)
def test_an_id_is_an_owner_a_name_and_perhaps_a_revision(text: str, expected: HubId | None) -> None:
    assert parse_hub_id(text) == expected


def test_an_id_is_fetched(hub: FakeHub) -> None:
    assert resolve_checkpoint("Paranioar/NEO1_0-2B-SFT@main", download=hub) == hub.folder
    assert hub.asked == [HubId("Paranioar/NEO1_0-2B-SFT", "main")]


def test_what_lies_on_the_disk_goes_before_the_network(hub: FakeHub) -> None:
    local = Path("owner/name")
    local.mkdir(parents=True)
    assert resolve_checkpoint("owner/name", download=hub) == local
    with pytest.raises(
        CheckpointError, match="local folder, which has no revision 'v1': give owner/name alone"
    ):
        resolve_checkpoint("owner/name@v1", download=hub)
    Path("owner/file").write_text("")
    Path("owner/broken").symlink_to("nowhere")
    for taken in ("owner/file", "owner/broken"):
        with pytest.raises(CheckpointError, match="no directory"):
            resolve_checkpoint(taken, download=hub)
    assert hub.asked == []


def test_a_wrong_name_in_a_local_folder_never_reaches_the_network_unless_a_revision_says_so(
    hub: FakeHub,
) -> None:
    Path("models").mkdir()
    with pytest.raises(CheckpointError, match="no 'nmae' in the local folder 'models': .* models/nmae@main"):
        resolve_checkpoint("models/nmae", download=hub)
    assert hub.asked == []
    assert resolve_checkpoint("models/nmae@main", download=hub) == hub.folder


@pytest.mark.parametrize("text", ["./owner/name", "no-such-model", "out/a/b", "/owner/name"])
def test_what_is_no_id_never_reaches_the_network(hub: FakeHub, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"give the directory .* or a Hugging Face id such as"):
        resolve_checkpoint(text, download=hub)
    assert hub.asked == []


def test_without_a_network_the_error_says_how_to_get_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real huggingface_hub, told to stay offline, as on a robot."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(HubError) as caught:
        resolve_checkpoint("Paranioar/NEO1_0-2B-SFT")
    assert DOWNLOAD_LINE in str(caught.value)
    assert "'Paranioar/NEO1_0-2B-SFT' is no local folder" in str(caught.value)


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad name"), RuntimeError("xet")])
def test_a_download_that_fails_gives_its_reason_in_one_line(error: Exception) -> None:
    def download(_: HubId) -> str:
        raise error

    with pytest.raises(HubError, match=rf"failed \({error}\)") as caught:
        fetch_checkpoint(HubId("a/b", "v1"), download)
    assert "--revision v1 " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_has_both_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as caught:
        fetch_checkpoint(HubId("Paranioar/NEO1_0-2B-SFT"))
    assert caught.value.extra == "hub"
    assert 'pip install "neo-edge[hub]"' in str(caught.value)
    assert DOWNLOAD_LINE in str(caught.value)


def test_huggingface_hub_is_asked_for_weights_and_texts_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def snapshot_download(repo: str, **options: object) -> str:
        calls.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert fetch_checkpoint(HubId("a/b", "v1")) == tmp_path
    assert calls == [("a/b", {"revision": "v1", "allow_patterns": list(FILES)})]
    assert not [pattern for pattern in FILES if pattern.endswith((".py", ".bin", ".pt", "*"))]
