"""Every public question, asked of one small network wherever it lies, in numbers that do not depend on where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from placed import Problem
from torch.nn import functional

import landscape as ls
import msam
from msam.data import Composed, Crop, Cutout, Flip, MixUp, draws_of

Numbers = Callable[[Problem], Any]
QUESTIONS: dict[str, Numbers] = {}
MIXED: dict[str, Numbers] = {}  # in automatic mixed precision
DRAWN_THERE: dict[str, Numbers] = {}  # the numbers of these are drawn on the device itself, and are others on another


def asked(name: str, table: dict[str, Numbers] = QUESTIONS) -> Callable[[Numbers], Numbers]:
    """Put a question into a table."""

    def put(question: Numbers) -> Numbers:
        table[name] = question
        return question

    return put


@asked("loss, gradient and products")
def _(p):
    objective = p.objective()
    v = p.direction(objective)
    return objective.loss(objective.weights), objective.gradient(objective.weights), objective.hvp(objective.weights, v)


for way in (ls.KeptGraphs(), ls.RebuiltGraphs()):
    for matrix in (ls.HessianOperator, ls.GGNOperator, ls.EmpiricalFisherOperator):

        @asked(f"{matrix.__name__} by {type(way).__name__}")
        def _(p, way=way, matrix=matrix):
            operator = matrix(p.objective(products=way))
            return operator.apply(p.direction(operator.objective)[:, None])


for way in (ls.ForwardOverReverse(), ls.CentralDifferences()):

    @asked(f"products by {type(way).__name__}")
    def _(p, way=way):
        operator = ls.HessianOperator(p.objective(p.perceptron(0), products=way))
        return operator.apply(p.direction(operator.objective)[:, None])


@asked("products through scipy")
def _(p):
    operator = ls.HessianOperator(p.objective())
    return operator @ p.direction(operator.objective).cpu().numpy()


@asked("top eigenvalues")
def _(p):
    return ls.top_eigenvalues(ls.GGNOperator(p.objective()), k=2, tol=1e-4).eigenvalues


@asked("certified")
def _(p):
    hessian = ls.HessianOperator(p.objective(p.perceptron(0)))
    found = ls.certify(ls.top_eigenvalues(hessian, k=1, tol=1e-3), hessian)
    return found.verdicts[found.names != "PyHessian"] == "passed"  # which is asked on the CPU only


@asked("trace and its layers")
def _(p):
    found = ls.trace(ls.GGNOperator(p.objective()), num_probes=12)
    return found.estimate, found.stderr


for estimator in (ls.Hutchinson(), ls.HutchPlusPlus(), ls.XTrace(), ls.PerExample(), ls.ExactGaussNewton()):

    @asked(f"trace by {type(estimator).__name__}")
    def _(p, estimator=estimator):
        return ls.trace(ls.HessianOperator(p.objective()), num_probes=12, estimator=estimator).estimate


@asked("diagonal and Frobenius norm")
def _(p):
    hessian = ls.HessianOperator(p.objective())
    return ls.diagonal(hessian, num_probes=8).estimates, ls.frobenius_norm(hessian, num_probes=8).estimate


@asked("density")
def _(p):
    found = ls.spectral_density(ls.HessianOperator(p.objective()), 6, num_probes=2)
    return [(found.weights * found.nodes**power).sum() for power in (1, 2)]


for ascent in (
    ls.GradientAscent(rho=0.1),
    ls.AdaptiveAscent(rho=0.1),
    ls.FriendlyAscent(rho=0.1),
    ls.CentralizedAscent(rho=0.1),
    ls.SeveralSteps(ls.GradientAscent(rho=0.1, ball=ls.Linf()), steps=2),
):

    @asked(f"m-sharpness by {type(ascent).__name__}")
    def _(p, ascent=ascent):
        return [
            each.value for row in ls.m_sharpness_grid(p.objective(), ascent, microbatch_sizes=[3, 11]) for each in row
        ]


@asked("m-sharpness at random", DRAWN_THERE)
def _(p):
    return ls.m_sharpness(p.objective(), ls.RandomPerturbation(rho=0.1), microbatch_size=3).value


@asked("worst-case sharpness")
def _(p):
    return ls.worst_case_sharpness(p.objective(), ls.GradientAscent(rho=0.1), microbatch_size=4, steps=2).value


@asked("Keskar's sharpness", DRAWN_THERE)
def _(p):
    return [
        ls.keskar_sharpness(p.objective(), within=within, steps=2).value for within in (None, ls.RandomSubspaces(dim=3))
    ]


@asked("average-case sharpness", DRAWN_THERE)
def _(p):
    return ls.average_case_sharpness(p.objective(), ls.GradientAscent(rho=0.05), num_draws=3).value


@asked("low-pass flatness", DRAWN_THERE)
def _(p):
    return ls.low_pass_flatness(p.objective(), sigma=0.01, num_draws=3).value


@asked("PAC-Bayes sigma", DRAWN_THERE)
def _(p):
    return ls.pac_bayes_sigma(p.objective(), num_draws=3, rtol=0.1).sigma


@asked("Fisher-Rao norm and relative flatness")
def _(p):
    ggn = ls.GGNOperator(p.objective())
    return ls.fisher_rao_norm(ggn, microbatch_size=11).value, ls.relative_flatness(
        ls.HessianOperator(p.objective()), 12, layers="head.*"
    ).value


@asked("directions")
def _(p):
    objective, other = p.pair()
    w = objective.weights
    return (
        ls.filter_normalized(objective, seed=1),
        ls.towards(objective, other.weights).direction,
        ls.plane_through(objective, other.weights, w + p.direction(objective)).directions,
        ls.trajectory_plane(objective, [w + 1, other.weights.cpu().numpy(), w + p.direction(objective)]).path,
    )


@asked("slices")
def _(p):
    objective = p.objective()
    axes = tuple(ls.filter_normalized(objective, seed=seed) for seed in (1, 2))
    line = ls.line_slice(objective, axes[0], coordinates=[-1, 0, 1], held_out=p.objective(), score=ls.accuracy)
    return line.losses, line.scores, ls.plane_slice(objective, axes, x=[-1, 0], y=[0, 1, 2]).losses


@asked("paths")
def _(p):
    objective, other = p.pair()
    straight = ls.interpolate(objective, other, points=3, tolerance=0.5, batch_norm=ls.Recomputed(objective))
    curve = ls.bezier(
        objective,
        other,
        points=3,
        tolerance=0.5,
        training=ls.BendTraining(epochs=1, batch_size=4),
        batch_norm=ls.Frozen(),
    )
    return straight.losses, curve.losses


@asked("alignment")
def _(p):
    return ls.align(*(p.objective(p.perceptron(seed)) for seed in (0, 1)), restarts=1).objective.weights


@asked("audit", DRAWN_THERE)
def _(p):
    objective = p.objective(p.perceptron(0))
    measures = ls.usual_measures(objective, microbatch_size=4, num_probes=2)
    return len(ls.audit(objective, measures).to_frame())


def trained(p, perturbation, *, precision=None, **settings):
    """Weights and running statistics after two steps."""
    p = Problem(p.device, p.dtype)

    def loss(batch):
        with torch.autocast(torch.device(p.device).type, precision, enabled=precision is not None):
            return functional.cross_entropy(p.model(batch[0]), batch[1])

    p.model.train()
    sgd = torch.optim.SGD(p.model.parameters(), lr=0.1, momentum=0.9)
    optimizer = msam.mSAM(sgd, perturbation, num_microbatches=3, module=p.model, seed=0, **settings)
    losses = [optimizer.step(loss, batch) for batch in p.data[:2]]
    report = [] if optimizer.per_shard is None else [optimizer.per_shard.losses, optimizer.per_shard.gradient_norms]
    return losses, [*p.model.parameters()], [b for b in p.model.buffers() if b.is_floating_point()], report


for execution in (
    msam.OneByOne(),
    msam.OneByOne(device_batch_size=1),
    msam.Layerwise(),
    msam.Vectorised(memory=2**30),
    msam.Fastest(),
):

    @asked(f"training {execution!r}")
    def _(p, execution=execution):
        policy = msam.RunningStatistics() if repr(execution)[0] in "VL" else msam.ShardStatistics()
        return trained(p, ls.AdaptiveAscent(rho=0.1), execution=execution, batch_norm=policy)


@asked("training by the statistics of the batch, with reports")
def _(p):
    return trained(p, ls.GradientAscent(rho=0.1), batch_norm=msam.BatchStatistics(), observes=True, max_grad_norm=0.5)


for descent in (msam.TraceDescent(rho=0.01), msam.DeterminantDescent(rho=0.01)):

    @asked(f"training by {type(descent).__name__}", DRAWN_THERE)
    def _(p, descent=descent):
        return trained(p, descent)


for precision in (torch.bfloat16, torch.float16):

    @asked(f"training in {precision}", MIXED)
    def _(p, precision=precision):
        scaler = torch.amp.GradScaler(torch.device(p.device).type) if precision == torch.float16 else None
        return trained(p, ls.GradientAscent(rho=0.1), precision=precision, scaler=scaler)


@asked("augmentation")
def _(p):
    every = Composed(Crop(padding=1), Flip(), Cutout(2), MixUp(0.4, classes=3))
    return every(p.images, p.classes, draws=draws_of(0, 1, 2))
