"""Run every benchmark, or those named: ``python -m benchmarks curvature``."""

from __future__ import annotations

import sys

from benchmarks import curvature, training

BENCHMARKS = {"training": training.main, "curvature": curvature.main}

for name in sys.argv[1:] or list(BENCHMARKS):
    if name not in BENCHMARKS:
        sys.exit(f"there is no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    BENCHMARKS[name]()
