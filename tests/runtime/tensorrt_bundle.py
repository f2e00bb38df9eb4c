"""A bundle that names engines, whose plans are a word each, and a backend over fakes that loads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from host_device import HostDevice
from ort_engine import OrtEngine

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.engine_files import graph_digest
from neo_edge.engines import EngineBackend, EngineKey, EngineLimits, EngineSet
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver
from neo_edge_runtime.tensorrt.backend import TensorRtBackend
from neo_edge_runtime.tensorrt.installed import Installed

LIMITS = EngineLimits(max_context=1024, max_chunk=512, max_batch=3, max_logits_rows=16, max_patches=256)
DRIVER = NvidiaDriver("580.65", "13.0", (NvidiaDevice("a GPU", 8 << 30, "8.6"),))
RTX = Installed("tensorrt-rtx", "1.7.1", SimpleNamespace())


def engine_key(bundle: Bundle, variant: str, **changes: Any) -> EngineKey:
    """Of engines that fit the fakes, but for the changes."""
    key = EngineKey(
        backend="tensorrt-rtx",
        version=RTX.version,
        compute_capability="86",
        variant=variant,
        graph_digest=graph_digest(bundle.manifest, bundle.variant(variant)),
        limits=LIMITS,
    )
    return replace(key, **changes)


def add_engines(root: Path, key: EngineKey) -> EngineSet:
    """Writes plans of that key into a bundle."""
    folder = f"engines/{key.name}"
    engines = EngineSet(
        key, vision=f"{folder}/vision.plan", decoder=f"{folder}/decoder.plan", layers=f"{folder}/layers.json"
    )
    with BundleUpdate(open_bundle(root)) as update:
        (update.directory / folder).mkdir(parents=True)
        for path in engines.referenced_files:
            (update.directory / path).write_text(f"plan of {path}")
        update.commit(lambda manifest: replace(manifest, engines={**manifest.engines, key.name: engines}))
    return engines


class Fakes:
    """What `TensorRtBackend.open` takes instead of a GPU; remembers what it was asked for."""

    def __init__(self, bundle: Bundle, **device: Any) -> None:
        self.bundle = bundle
        self.device = HostDevice(**device)
        self.engines: list[OrtEngine] = []
        self.loaded: list[str] = []

    def open_device(self, index: int) -> HostDevice:
        assert index == 0
        return self.device

    def open_engine(self, installed: Installed, plan: Any, label: str) -> OrtEngine:
        assert installed.version
        assert bytes(plan) == f"plan of {label}".encode()
        self.loaded.append(label)
        engines = next(
            there
            for there in self.bundle.manifest.engines.values()
            if label.startswith(f"engines/{there.key.name}")
        )
        variant = self.bundle.variant(engines.key.variant)
        graph = variant.vision if label == engines.vision else variant.decoder
        engine = OrtEngine(self.device, self.bundle.path(graph), engines.key.limits)
        self.engines.append(engine)
        return engine

    def open(
        self,
        variant: str | None = None,
        *,
        backend: EngineBackend = "tensorrt-rtx",
        installed: Installed = RTX,
        driver: NvidiaDriver | str = DRIVER,
        engines: str | None = None,
    ) -> TensorRtBackend:
        """A backend over the fakes."""
        return TensorRtBackend.open(
            self.bundle,
            variant,
            backend=backend,
            engines=engines,
            installed=installed,
            driver=driver,
            open_device=self.open_device,
            open_engine=self.open_engine,
        )
