"""How good a variant is, beside the one it was made from: accuracy, probabilities, bytes; as numbers and as a page."""

from neo_edge_calibration.quality.blocks import ReferenceAnswers
from neo_edge_calibration.quality.data import QualityData, file_data, scene_data
from neo_edge_calibration.quality.measuring import default_target, measure_quality, measure_variants
from neo_edge_calibration.quality.report import QualityReport

__all__ = [
    "QualityData",
    "QualityReport",
    "ReferenceAnswers",
    "default_target",
    "file_data",
    "measure_quality",
    "measure_variants",
    "scene_data",
]
