"""Tools that find the largest eigenvalues of one Hessian, each with its own knob for accuracy, and the truth."""

from __future__ import annotations

import bisect
import copy
import gc
import importlib.util
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import nets
from landscape import FromSubset, HessianOperator, Objective, top_eigenvalues

Good = Callable[[Callable[[int], np.ndarray]], bool]  # type: ignore[type-arg]  # of the values by seed
NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the width of the images
    "MLP": (nets.mlp, 8),
    "ViT": (nets.vit, 32),
    "ResNet-20": (nets.resnet20, 32),
}
CHUNK = 1000  # examples, for the tools that take batches
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


@dataclass
class Problem:
    """A network after 200 steps of SGD, and its loss over handwritten digits with noise."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    objective: Objective = field(init=False)

    def __post_init__(self) -> None:
        self.objective = Objective(self.model, functional.cross_entropy, self.batches())

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The data in chunks."""
        return list(zip(self.images.split(CHUNK), self.labels.split(CHUNK), strict=True))

    def hessian(self) -> HessianOperator:
        """One that has computed nothing yet, no gradient either; the data in one piece, as an objective reads them."""
        return HessianOperator(self.objective.part([(self.images, self.labels)]))

    def truth(self, k: int) -> np.ndarray:  # type: ignore[type-arg]
        """The k largest eigenvalues in double precision, with residuals of at most 1e-5 of each."""
        data = [(images.double(), labels) for images, labels in self.batches()]
        exact = Objective(copy.deepcopy(self.model).double(), functional.cross_entropy, data)
        found = top_eigenvalues(HessianOperator(exact), k, tol=1e-5)
        if not found.converged.all():
            raise RuntimeError(f"the reference did not converge: {found.stopped}")
        return np.asarray(found.eigenvalues)

    @classmethod
    def of(cls, name: str, number: int) -> Problem:
        """The same for the same arguments."""
        build, width = NETS[name]
        digits = load_digits()
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(0, len(digits.target), (number,), generator=generator)
        images = torch.as_tensor(digits.images, dtype=torch.float32)[drawn][:, None] / 16
        images = images + 0.2 * torch.randn(images.shape, generator=generator)
        if width != images.shape[-1]:
            images = functional.interpolate(images, size=width, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
        labels = torch.as_tensor(digits.target)[drawn]
        torch.manual_seed(0)
        model = build()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1 if name == "MLP" else 0.02, momentum=0.9)
        for _ in range(200):
            rows = torch.randint(0, number, (128,), generator=generator)
            sgd.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            sgd.step()
        sgd.zero_grad()
        return cls(model.eval(), images, labels)


class Tool:
    """A way of finding eigenvalues: ``settings(k)`` from loose to tight, and ``run`` for one of them."""

    name: str
    needs: str = ""

    @property
    def is_there(self) -> bool:
        """Whether what it needs is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    def settings(self, k: int) -> Sequence[float]:
        """From loose to tight."""
        raise NotImplementedError

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, descending, and the products that they took."""
        raise NotImplementedError


class Ours(Tool):
    """This package."""

    name = "this package"

    def settings(self, k: int) -> Sequence[float]:
        """Tolerances."""
        del k
        return TOLERANCES

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        found = top_eigenvalues(problem.hessian(), k, tol=setting, seed=seed)
        return np.asarray(found.eigenvalues), found.num_products


class Careless(Ours):
    """This package without its tests for eigenvalues that were missed, which the Lanczos tools do not make either."""

    name = "this package, chance=1"

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        found = top_eigenvalues(problem.hessian(), k, tol=setting, seed=seed, chance=1)
        return np.asarray(found.eigenvalues), found.num_products


class FromPart(Ours):
    """This package, from a part of the data; its products count as the share of the data that they see."""

    name = "this package, FromSubset"
    num_examples = 1000

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        start = FromSubset(self.num_examples)
        found = top_eigenvalues(problem.hessian(), k, tol=setting, seed=seed, initial=start)
        share = self.num_examples / len(problem.labels)
        return np.asarray(found.eigenvalues), found.num_products + share * found.num_subset_products


class PyHessian(Tool):
    """Power iteration on one batch of all the data, the mode in which it keeps its graph."""

    name, needs = "PyHessian", "pyhessian"

    def settings(self, k: int) -> Sequence[float]:
        """Tolerances; its default is 1e-3."""
        del k
        return (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        from pyhessian import hessian

        module = sys.modules["pyhessian.hessian"]
        product, count = module.hessian_vector_product, itertools.count()  # type: ignore[attr-defined]

        def counted(*arguments: object) -> object:
            next(count)
            return product(*arguments)

        torch.manual_seed(seed)
        model = copy.deepcopy(problem.model)
        module.hessian_vector_product = counted  # type: ignore[attr-defined]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = hessian(model, functional.cross_entropy, data=(problem.images, problem.labels), cuda=False)
                values, _ = theirs.eigenvalues(1000, setting, top_n=k)
        finally:
            module.hessian_vector_product = product  # type: ignore[attr-defined]
        model.zero_grad()
        del theirs
        gc.collect()
        return np.sort(values)[::-1], next(count)


class Curvlinops(Tool):
    """Its operator in scipy's ARPACK, with as few basis vectors as serve it best."""

    name, needs = "curvlinops + eigsh", "curvlinops"

    def __init__(self) -> None:
        self.basis: dict[int, int] = {}

    def settings(self, k: int) -> Sequence[float]:
        """Tolerances."""
        del k
        return TOLERANCES

    def tune(self, problem: Problem, k: int, good: Good) -> float:
        """Choose the basis and the tolerance by the number of products, on our operator, whose products cost less."""
        hessian, best = problem.hessian(), (np.inf, 0.0, 0)
        for basis in (k + 4, 2 * k + 4, 3 * k + 6):
            for tol in TOLERANCES:
                most = [0.0]

                def values(seed: int, tol: float = tol, basis: int = basis, most: list[float] = most) -> np.ndarray:  # type: ignore[type-arg]
                    found, products = _eigsh(hessian, hessian.dim, k, tol, basis, seed)
                    most.append(products)
                    return found

                if good(values):
                    best = min(best, (max(most), tol, basis))
                    break
                if max(most) > best[0]:
                    break
        self.basis[k] = best[2]
        return best[1]

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        from curvlinops import HessianLinearOperator

        parameters = [p for p in problem.model.parameters() if p.requires_grad]
        theirs = HessianLinearOperator(
            problem.model, nn.CrossEntropyLoss(), parameters, problem.batches(), check_deterministic=False
        ).to_scipy()
        return _eigsh(theirs, theirs.shape[0], k, setting, self.basis[k], seed)


class Eigenthings(Tool):
    """Lanczos of hessian-eigenthings; its setting is the number of steps."""

    name, needs = "hessian-eigenthings", "hessian_eigenthings"

    def settings(self, k: int) -> Sequence[float]:
        """Numbers of steps."""
        return range(k + 4, 3 * k + 14)

    def tune(self, problem: Problem, k: int, good: Good) -> float:
        """Choose the steps on our operator, whose products cost less."""
        from hessian_eigenthings import LambdaOperator, lanczos

        hessian = problem.hessian()
        operator = LambdaOperator(hessian.apply, hessian.dim, dtype=torch.float32)
        settings = self.settings(k)

        def enough(place: int) -> bool:
            def values(seed: int) -> np.ndarray:  # type: ignore[type-arg]
                found = lanczos(operator, k=k, max_iter=int(settings[place]), tol=1e-10, which="LA", seed=seed)
                return np.sort(found.eigenvalues.numpy())[::-1]

            return good(values)

        return settings[bisect.bisect_left(range(len(settings) - 1), True, key=enough)]

    def run(self, problem: Problem, k: int, setting: float, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
        """The eigenvalues, and the products."""
        from hessian_eigenthings import HessianOperator as Theirs, lanczos, supervised_loss

        operator = Theirs(problem.model, problem.batches(), supervised_loss(functional.cross_entropy))
        found = lanczos(operator, k=k, max_iter=int(setting), tol=1e-10, which="LA", seed=seed)
        return np.sort(found.eigenvalues.numpy())[::-1], setting


def _eigsh(operator: object, dim: int, k: int, tol: float, basis: int, seed: int) -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
    """The k largest, descending, and the products that ARPACK took."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

    count = itertools.count()

    def product(v: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        next(count)
        found: np.ndarray = operator @ v.astype(np.float32)  # type: ignore[operator, type-arg]
        return found

    wrapped = LinearOperator((dim, dim), matvec=product, dtype=np.float32)
    start = np.random.default_rng(seed).normal(size=dim).astype(np.float32)
    try:
        values = eigsh(wrapped, k, which="LA", tol=tol, ncv=basis, v0=start, return_eigenvectors=False, maxiter=20)
    except ArpackNoConvergence:
        return np.full(k, np.nan), next(count)
    return np.sort(values)[::-1], next(count)
