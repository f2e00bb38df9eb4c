"""How good a variant is, beside the one it was made from: accuracy, probabilities, bytes; as numbers and as a page."""

from neo_edge_calibration.quality.blocks import ReferenceAnswers
from neo_edge_calibration.quality.data import QualityData, file_data, scene_data
from neo_edge_calibration.quality.keeping import measure_and_keep
from neo_edge_calibration.quality.measuring import measure_quality, measure_variants
from neo_edge_calibration.quality.record import default_target
from neo_edge_calibration.quality.report import QualityReport

__all__ = [
    "QualityData",
    "QualityReport",
    "ReferenceAnswers",
    "default_target",
    "file_data",
    "measure_and_keep",
    "measure_quality",
    "measure_variants",
    "scene_data",
]
