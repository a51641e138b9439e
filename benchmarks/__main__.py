"""Run every benchmark, or one with its options: ``python -m benchmarks training --rounds 5``."""

from __future__ import annotations

import sys

from benchmarks import curvature, products, sharpness, slices, traces, training

BENCHMARKS = {
    "training": training.main,
    "products": products.main,
    "curvature": curvature.main,
    "traces": traces.main,
    "sharpness": sharpness.main,
    "slices": slices.main,
}

if len(sys.argv) > 1 and sys.argv[1] not in BENCHMARKS:
    sys.exit(f"there is no benchmark {sys.argv[1]!r}; there are: {', '.join(BENCHMARKS)}")
for name in sys.argv[1:2] or list(BENCHMARKS):
    BENCHMARKS[name](sys.argv[2:])
