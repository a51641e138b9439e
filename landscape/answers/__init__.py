"""The kinds of answers, each with the uncertainty that belongs to it. No torch in here."""

from landscape.answers.audit import Audit as Audit
from landscape.answers.certificate import Certificate as Certificate, Check as Check
from landscape.answers.curvature import Eigenpairs as Eigenpairs
from landscape.answers.density import SpectralDensity as SpectralDensity
from landscape.answers.flatness import (
    FisherRaoNorm as FisherRaoNorm,
    KeskarSharpness as KeskarSharpness,
    LowPassFlatness as LowPassFlatness,
    PacBayesSigma as PacBayesSigma,
    RelativeFlatness as RelativeFlatness,
)
from landscape.answers.forecast import Forecast as Forecast
from landscape.answers.paths import Barrier as Barrier, PathLosses as PathLosses
from landscape.answers.sharpness import (
    AverageCaseSharpness as AverageCaseSharpness,
    Sampled as Sampled,
    Sharpness as Sharpness,
    SharpnessCurve as SharpnessCurve,
    UnderNoise as UnderNoise,
    WorstCaseSharpness as WorstCaseSharpness,
)
from landscape.answers.sizes import SharpnessOverSizes as SharpnessOverSizes
from landscape.answers.slices import LineSlice as LineSlice, PlaneSlice as PlaneSlice, Slice as Slice
from landscape.answers.traces import (
    DiagonalEstimate as DiagonalEstimate,
    NormEstimate as NormEstimate,
    TraceEstimate as TraceEstimate,
)
