"""The one error tree: everything neo_edge raises on purpose is a `NeoEdgeError`.

A message says what was found, what is allowed and the cure.
"""

from __future__ import annotations


class NeoEdgeError(Exception):
    """Any failure that neo_edge foresaw; the message names the cure."""


class MissingExtraError(NeoEdgeError):
    """An optional package is not installed; the message holds the pip line."""

    def __init__(self, package: str, extra: str, *, otherwise: str | None = None) -> None:
        """`otherwise` is a second cure, for those who cannot install it."""
        super().__init__(
            f'the package {package!r} is needed here and not installed: run  pip install "neo-edge[{extra}]"'
            + (f"; or {otherwise}" if otherwise else "")
        )
        self.package = package
        self.extra = extra


class BrokenPackageError(NeoEdgeError):
    """An optional package is installed and cannot be loaded."""

    def __init__(self, package: str, extra: str, reason: Exception) -> None:
        super().__init__(
            f"the package {package!r} is installed and cannot be loaded ({reason}): run  pip install "
            f'--force-reinstall "neo-edge[{extra}]", or choose a build of it that fits this system'
        )
        self.package = package
        self.extra = extra


class CheckpointError(NeoEdgeError):
    """A checkpoint directory cannot be read as a NEO-ov model."""


class ConfigError(CheckpointError):
    """config.json is missing, malformed or describes an impossible model."""


class UnsupportedArchitectureError(CheckpointError):
    """The checkpoint is a well-formed model of another architecture."""


class WeightsError(CheckpointError):
    """Tensors are missing, extra, misshapen or of a wrong type; the message lists them."""


class HubError(CheckpointError):
    """A checkpoint named by its Hugging Face id could not be fetched; the message holds the command that does."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, broken, or disagree with config.json."""


class BundleError(NeoEdgeError):
    """A bundle cannot be used."""


class BundleVersionError(BundleError):
    """The manifest has a schema version that this release does not know."""


class BundleCorruptError(BundleError):
    """A file of the bundle is missing, truncated or altered, or its manifest is malformed."""


class EngineError(BundleError):
    """TensorRT engines are missing, or were built for something else, or are damaged; none was loaded."""


class ExportError(NeoEdgeError):
    """An export could not be finished; no bundle was left behind."""


class ParityError(ExportError):
    """Written graphs disagree with the reference by more than the tolerance."""


class CalibrationError(NeoEdgeError):
    """Activation statistics could not be gathered, or cannot be used; the bundle is as it was."""


class CalibrationDataError(CalibrationError):
    """The prompts to calibrate with are missing, too few, or of the wrong kind."""


class StatisticsError(CalibrationError):
    """Activation statistics are damaged, or hold what no model should give: NaN, infinity, a constant."""


class StaleCalibrationError(CalibrationError):
    """Activation statistics are of another checkpoint or other graphs than the bundle has."""


class QuantizationError(NeoEdgeError):
    """A variant could not be quantized; nothing was written."""


class EngineBuildError(NeoEdgeError):
    """TensorRT built no engine; the bundle is as it was."""


class InputError(NeoEdgeError, ValueError):
    """An argument of a public call is outside what is allowed."""


class ImageError(InputError):
    """A picture cannot be decoded or has a shape that the model does not take."""


class VideoError(InputError):
    """A video file cannot be decoded, or is beyond the limits that hold for it."""


class PromptError(InputError):
    """A prompt and its images do not fit together."""


class ConstraintError(InputError):
    """An answer cannot be bound in the way that was asked for."""


class AnswerError(NeoEdgeError):
    """An answer does not hold what was looked for in it; the message has the answer."""


class SourceError(NeoEdgeError):
    """A live source cannot be opened, has broken off, or gives no frames."""


class ContextOverflowError(NeoEdgeError):
    """More tokens than the session may hold; the message has the counts."""


class MemoryBudgetError(NeoEdgeError):
    """A run would need more memory than there is; nothing was allocated."""


class SessionClosedError(NeoEdgeError):
    """The session was closed, by the caller or after a non-finite value."""


class BackendError(NeoEdgeError):
    """The execution backend is unavailable or failed."""


class CacheError(NeoEdgeError):
    """This machine's cache cannot be read, written or trusted; the message names its directory."""
