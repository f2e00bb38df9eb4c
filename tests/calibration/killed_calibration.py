"""Calibrates a bundle in this process, to be killed: the bundle, then the number of samples."""

from __future__ import annotations

import sys

from calibration_bundle import questions

from neo_edge_calibration import calibrate

if __name__ == "__main__":
    count = int(sys.argv[2])
    calibrate(sys.argv[1], questions(count), samples=count, threads=1)
