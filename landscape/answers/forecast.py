"""What a measurement will cost. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class Forecast(Result):
    """What questions about an operator will cost. Arrays have one entry per question, ``(q,)``.

    Attributes:
        questions: their names.
        products: products with the operator that each typically takes.
        most_products: that it takes at the most.
        seconds: for the typical number of products.
        spread: standard deviation of these seconds, from repeated timings; what others run at the time is not in it.
        most_seconds: for the largest number of products.
        memory: bytes at the most, of the vectors that are kept and of the graph; NaN where the graph's are not known.
        dim: rows of the operator.
        gradient_seconds: of one gradient of the same data.
        product_seconds: of one product with one vector.
        graph_bytes: held for a product by its graph at the most; NaN where it could not be measured.
    """

    questions: Array
    products: Array
    most_products: Array
    seconds: Array
    spread: Array
    most_seconds: Array
    memory: Array
    dim: int
    gradient_seconds: float
    product_seconds: float
    graph_bytes: float

    title: ClassVar[str] = "forecast"

    @property
    def total_seconds(self) -> tuple[float, float, float]:
        """Typical seconds of all questions, their spread, and the seconds at the most."""
        return float(self.seconds.sum()), float(self.spread.sum()), float(self.most_seconds.sum())

    def summary(self) -> dict[str, Any]:
        """Each question with its products, seconds and bytes, and all of them together."""
        typical, spread, most = self.total_seconds
        return {
            "questions": self.to_frame().to_dict(orient="records"),
            "total": {"seconds": typical, "spread": spread, "most_seconds": most, "memory": float(self.memory.max())},
            "dim": self.dim,
            "gradient_seconds": self.gradient_seconds,
            "product_seconds": self.product_seconds,
            "graph_bytes": self.graph_bytes,
        }

    def remarks(self) -> list[str]:
        """What the numbers rest on, in sentences."""
        ratio = self.product_seconds / self.gradient_seconds
        took = (
            f"a gradient took {self.gradient_seconds:.3g} s, a product {self.product_seconds:.3g} s ({ratio:.2g} times)"
        )
        return [took, "seconds are at the speed of now; memory is of kept vectors and the graph of a product"]

    def lines(self) -> list[Line]:
        """The seconds of each question."""
        return [
            Line(f"seconds for the {name}", float(seconds), float(spread), f"at most {most:.3g}")
            for name, seconds, spread, most in zip(
                self.questions.tolist(), self.seconds, self.spread, self.most_seconds, strict=True
            )
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per question."""
        columns = ("products", "most_products", "seconds", "spread", "most_seconds", "memory")
        values: dict[str, Array] = {name: np.asarray(getattr(self, name)) for name in columns}
        return pd.DataFrame({"question": self.questions} | values)
