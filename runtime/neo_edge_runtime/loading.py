"""A bundle's directory -> a model that answers questions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from neo_edge.protocols import InferenceProtocol, get_protocol
from neo_edge_runtime.model import Model
from neo_edge_runtime.prefill_plan import DEFAULT_CHUNK_TOKENS

if TYPE_CHECKING:
    import os

    from neo_edge_runtime.backend_choice import BackendName
    from neo_edge_runtime.prepacked_build import PrepackedMode
    from neo_edge_runtime.video_limits import VideoLimits

_log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    threads: int | None = None,
    protocol: str | InferenceProtocol = "edge",
    max_pixels: int | None = None,
    max_visual_tokens: int | None = None,
    memory_limit_bytes: int | None = None,
    max_context_tokens: int | None = None,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    upstream_image_rules: bool = False,
    video_limits: VideoLimits | None = None,
    verify: Literal["size", "sha256"] = "size",
    prepacked: PrepackedMode = "auto",
    backend: BackendName | None = None,
) -> Model:
    """Loads a bundle; close the model or use it in a `with` statement.

    Args:
        path: the bundle's directory.
        variant: `fp32`, `fp16-portable`, ...; None: the first one that the backend can run.
        threads: of each operator; None: the physical cores that this process may use.
        protocol: a preset's name, or a protocol of your own.
        max_pixels: larger pictures, and frames of videos, are scaled down to this area; None: the protocol's.
        max_visual_tokens: a picture that still gives more is refused; None: none is.
        memory_limit_bytes: most that the model's sessions may take beside the weights; None: what is free, and
            the scratch of a prefill stays for the next one while memory lasts (2B, 1,024 tokens: 0.3 GiB).
        max_context_tokens: most tokens of a conversation; None: the model's positions and the memory decide.
        chunk_tokens: most tokens of one prefill run; a smaller number needs less scratch memory.
        upstream_image_rules: treat EXIF orientation and transparency as NEO's own code does.
        video_limits: what is read of a video file at most; a request can lower these and never raise them.
        verify: `sha256` reads every byte of the bundle first.
        prepacked: `auto` maps the weights from this machine's prepacked cache if `neo-edge prepack` put them there;
            `build` puts them there first, which takes seconds and disk space; `off` leaves the cache alone.
        backend: `onnxruntime` (None: this one) runs on the CPU, `onnxruntime-cuda` on an NVIDIA GPU; `tensorrt` and
            `tensorrt-rtx` run the engines that `neo-edge build` made. None stands in for another.

    Raises:
        BundleError: the bundle is missing, damaged, of another version, or lacks the variant.
        MissingExtraError: a package that the backend needs is not installed.
        BackendError: the backend cannot run the variant, or there is no such device; the message says what is missing.
        InputError: an argument is out of range.
        MemoryBudgetError: the weights are larger than the free memory.
        CacheError: `prepacked` is `build`, and the cache cannot be written or trusted.
    """
    from neo_edge.bundle import open_bundle
    from neo_edge.tokenizer import load_tokenizer
    from neo_edge_runtime.backend_choice import backend_name, open_backend

    chosen_backend = backend_name(backend)
    preset = get_protocol(protocol) if isinstance(protocol, str) else protocol
    bundle = open_bundle(str(path), verify=verify)
    tokenizer = load_tokenizer(bundle.root) if bundle.manifest.tokenizer else None
    opened = open_backend(
        bundle,
        chosen_backend,
        variant=variant,
        threads=threads,
        keep_scratch=memory_limit_bytes is None,
        prepacked=prepacked,
    )
    if reservation := bundle.variant(opened.variant).reservation:
        _log.warning("the variant %s of %s: %s", opened.variant, bundle.root, reservation)
    return Model(
        opened.backend,
        tokens=bundle.manifest.special_tokens,
        tokenizer=tokenizer,
        protocol=preset,
        max_pixels=max_pixels,
        max_visual_tokens=max_visual_tokens,
        memory_limit_bytes=memory_limit_bytes,
        max_context_tokens=max_context_tokens,
        chunk_tokens=chunk_tokens,
        upstream_image_rules=upstream_image_rules,
        video_limits=video_limits,
    )
