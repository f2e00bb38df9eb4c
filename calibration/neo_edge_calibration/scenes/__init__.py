"""Synthetic spatial scenes: pictures of coloured shapes, questions about them and the answers, all from a seed."""

from neo_edge_calibration.scenes.families import FAMILIES, make_question

__all__ = ["FAMILIES", "make_question"]
