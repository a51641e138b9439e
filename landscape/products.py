"""Products of curvature matrices with vectors, for one batch: one graph serves any number of columns."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.recomputed import RECOMPUTES

Linear = Callable[[Tensor], Tensor]  # (dim, k) -> (dim, k)
Scalar = Callable[[Tensor], Tensor]

_NO_SECOND_DERIVATIVE = ("derivative", "double backward")  # in what torch says of kernels, and of compiled modules
_NO_DEPENDENCE = (
    "the loss does not depend on the weights to measure: none of them is used, or the model or the loss detaches "
    "them, or `forward` calls another model than the one it is given, or the call stands under "
    "torch.inference_mode(). Select other weights, or remove the cause."
)


class NoSecondDerivativeError(ValueError):
    """An operation of the model cannot be differentiated twice."""


def loss_and_slope(loss: Scalar, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """A scalar function of a leaf that takes gradients, and its gradient, ``(dim,)``."""
    with torch.enable_grad():
        value = loss(leaf)
        slope = slope_of(value, leaf)
    return value.detach(), slope


def loss_and_slopes(loss: Callable[[list[Tensor]], Tensor], blocks: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A scalar function of blocks of weights, and its gradient, block by block."""
    with torch.enable_grad():
        leaves = [block.detach().requires_grad_() for block in blocks]
        value = loss(leaves)
        slopes = _slopes_of(value, leaves)
    return value.detach(), [torch.zeros_like(b) if s is None else s for s, b in zip(slopes, blocks, strict=True)]


def hessian_at(loss: Scalar, w: Tensor) -> Linear:
    """V ↦ ∇²loss(w) V by double backward, with the graph of the gradient built here.

    Args:
        loss: a scalar function of w.
        w: ``(dim,)``.

    Returns:
        A function of blocks ``(dim, k)``; it holds the graph.

    Raises:
        NoSecondDerivativeError: here or at a product, if an operation of the model has none.
    """
    with torch.enable_grad(), second_derivatives():
        leaf = w.detach().requires_grad_()
        slope = slope_of(loss(leaf), leaf, create_graph=True)
    return lambda V: _pull_back(slope, leaf, V)


def gauss_newton_at(outputs: Scalar, loss: Scalar, w: Tensor) -> Linear:
    """V ↦ J' (∂²loss/∂outputs²) J V, with J = ∂outputs/∂w: the generalised Gauss-Newton matrix (Schraudolph 2002).

    Args:
        outputs: the model's outputs as a function of w.
        loss: a scalar function of the outputs.
        w: ``(dim,)``.

    Returns:
        A function of blocks ``(dim, k)``; it holds the graphs.
    """
    with torch.enable_grad(), second_derivatives():
        leaf = w.detach().requires_grad_()
        heads = one_tensor(outputs(leaf))
        _require_dependence(heads)
        cotangent = torch.zeros_like(heads, requires_grad=True)
        # J'u is linear in u, so its own backward pass is the forward product J v.
        with named_errors():
            (pulled,) = torch.autograd.grad(heads, leaf, cotangent, create_graph=True, materialize_grads=True)
        free = heads.detach().requires_grad_()
        slope = slope_of(loss(free), free, create_graph=True).reshape(-1)
        rows = heads.reshape(-1)

    def product(V: Tensor) -> Tensor:
        pushed = _pull_back(pulled, cotangent, V)  # (outputs, k)
        curved = _pull_back(slope, free, pushed)  # (outputs, k)
        return _pull_back(rows, leaf, curved)

    return product


def hessian_forward(loss: Scalar, w: Tensor) -> Linear:
    """The same as :func:`hessian_at` by forward-over-reverse: nothing is kept, and a block goes through in one pass."""

    def column(v: Tensor) -> Tensor:
        image: Tensor = jvp(grad(loss), (w,), (v,))[1]
        return image

    return _of_columns(column)


def gauss_newton_forward(outputs: Scalar, loss: Scalar, w: Tensor) -> Linear:
    """The same as :func:`gauss_newton_at` with J v by forward mode."""

    def column(v: Tensor) -> Tensor:
        pushed = jvp(lambda u: one_tensor(outputs(u)), (w,), (v,))  # (outputs, J v)
        curved = jvp(grad(loss), (pushed[0],), (pushed[1],))[1]
        image: Tensor = vjp(outputs, w)[1](curved)[0]
        return image

    return _of_columns(column)


def hessian_quotient(loss: Scalar, w: Tensor, step: Tensor) -> Tensor:
    """(∇loss(w + s) − ∇loss(w − s)) / 2."""

    def gradient(place: Tensor) -> Tensor:
        with torch.enable_grad(), second_derivatives():
            leaf = place.detach().requires_grad_()
            return slope_of(loss(leaf), leaf)

    return (gradient(w + step) - gradient(w - step)) / 2


def gauss_newton_quotient(outputs: Scalar, loss: Scalar, w: Tensor, step: Tensor) -> Tensor:
    """J(w)' (p(w + s) − p(w − s)) / 2 with p the slope of the loss in the outputs: p' = (∂²loss/∂outputs²) J."""

    def slope(place: Tensor) -> Tensor:
        with torch.enable_grad(), second_derivatives():
            heads = one_tensor(outputs(place.detach())).detach().requires_grad_()
            return slope_of(loss(heads), heads)

    change = (slope(w + step) - slope(w - step)) / 2
    with torch.enable_grad(), second_derivatives():
        leaf = w.detach().requires_grad_()
        return slope_of((outputs(leaf) * change).sum(), leaf)


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Within it, what has a second derivative takes the place of what has none.

    Attention is computed by its formula and not by a fused kernel, and compiled modules as they were written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # otherwise nothing has been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def slope_of(value: Tensor, leaf: Tensor, *, create_graph: bool = False) -> Tensor:
    """∂value/∂leaf for a scalar value.

    Raises:
        ValueError: if the value does not depend on the leaf.
    """
    (slope,) = _slopes_of(value, [leaf], create_graph=create_graph)
    assert slope is not None
    return slope


def _slopes_of(value: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor | None, ...]:
    """None for a leaf that the value does not depend on; not for all of them."""
    _require_dependence(value)
    with named_errors():
        slopes = torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)
    if all(slope is None for slope in slopes):  # it depends on something else that requires gradients
        raise ValueError(_NO_DEPENDENCE)
    return slopes


def _require_dependence(value: Tensor) -> None:
    if not value.requires_grad:
        raise ValueError(_NO_DEPENDENCE)


def one_tensor(outputs: object) -> Tensor:
    """Outputs that must be one tensor."""
    if not isinstance(outputs, Tensor):
        raise ValueError(f"a Gauss-Newton product needs outputs that are one tensor; got {type(outputs).__name__}")
    return outputs


def _of_columns(column: Callable[[Tensor], Tensor]) -> Linear:
    def product(V: Tensor) -> Tensor:
        with second_derivatives(), named_errors(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")  # torch's, about itself
            if V.shape[1] == 1:
                return column(V[:, 0])[:, None].detach()
            return vmap(column, in_dims=1, out_dims=1)(V).detach()

    return product


def _pull_back(function: Tensor, leaf: Tensor, V: Tensor) -> Tensor:
    """(∂function/∂leaf)' V, column by column: ``(function.numel(), k)`` -> ``(leaf.numel(), k)``."""
    if not V.shape[1] or not function.requires_grad:  # no column, or constant in the leaf: a gradient of a line
        return torch.zeros(leaf.numel(), V.shape[1], dtype=V.dtype, device=V.device)
    with named_errors():
        columns = [
            torch.autograd.grad(function, leaf, v, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for v in V.T
        ]
    return columns[0][:, None] if len(columns) == 1 else torch.stack(columns, dim=1)


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Within it, what torch says of operations without a second derivative, or of checkpoints, is a sentence."""
    try:
        yield
    except RuntimeError as error:
        if "torch.utils.checkpoint" in str(error):
            raise ValueError(RECOMPUTES) from None
        if not any(sign in str(error).lower() for sign in _NO_SECOND_DERIVATIVE):
            raise
        raise NoSecondDerivativeError(
            f"an operation of this model has no second derivative ({' '.join(str(error).split())[:200]}). Use a "
            "differentiable variant of it: attention outside a fused kernel, a module that is not compiled; or take "
            "products=CentralDifferences(), which needs first derivatives only."
        ) from None
