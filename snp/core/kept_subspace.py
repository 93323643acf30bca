"""Which subspace of a stream, read at many places, tells all of them most of what their readers need?

At a place with Gram matrix G, whose readers are fitted anew on what is left, the error is
tr F (G - G U (Uᵀ G U)⁻¹ Uᵀ G): what is explained is tr (Uᵀ G U)⁻¹ Uᵀ A U with A = G F G. The sum over places has its
gradient in closed form and depends on the span of U alone, so it is climbed on the Grassmann manifold, by steps of
Barzilai and Borwein (as Wen and Yin, 2013, on the Stiefel manifold).

A norm divides a token by what is left of its length. A share e of its energy that is gone makes it longer by e / 2,
which a fit corrects on average and not token by token: that costs about a quarter of e² of all that readers make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Place", "climbed", "explained"]

_JITTER = 1e-9  # of the mean diagonal, for directions that no place reads
_MOST_OPERATIONS = 2e12  # of one climb: minutes of one CPU thread; more is left at its start
_DISTORTION = 0.25
_MOST_HALVINGS = 12
_ENOUGH = 2e-2  # of what is left unexplained: smaller gains of five steps end the climb


@dataclass(frozen=True, eq=False)
class Place:
    """A place where a stream is read.

    Attributes:
        gram: G, mean outer product of what is read, shape [C, C], float64.
        product: A = G F G, shape [C, C].
        energy: of what is read, tr G.
        total: what there is to explain, tr F G.
    """

    gram: Tensor
    product: Tensor
    energy: float
    total: float

    @staticmethod
    def of(gram: Tensor, fisher: Tensor) -> Place:
        """From G and F, both of shape [C, C]."""
        return Place(gram, gram @ fisher @ gram, float(gram.trace()), float((fisher * gram).sum()))

    def inside(self, basis_CK: Tensor) -> Place:
        """The same of what lies in a subspace; what lies outside is missed."""
        gram, product = (basis_CK.T @ matrix @ basis_CK for matrix in (self.gram, self.product))
        return replace(self, gram=gram, product=product)


def explained(places: Sequence[Place], basis_CK: Tensor) -> tuple[float, Tensor]:
    """What a subspace explains at all places, less what it distorts, and the gradient on the manifold, shape [C, K]."""
    value, gradient = 0.0, torch.zeros_like(basis_CK)
    eye = torch.eye(basis_CK.shape[1], dtype=basis_CK.dtype, device=basis_CK.device)
    for place in places:
        of_gram, of_product = place.gram @ basis_CK, place.product @ basis_CK
        inner = basis_CK.T @ of_gram
        factor = torch.linalg.cholesky(inner + (_JITTER * inner.diagonal().mean() + 1e-300) * eye)
        share = torch.cholesky_solve(basis_CK.T @ of_product, factor)
        value += float(share.trace())
        energy = max(place.energy, 1e-300)
        gone = max(1 - float(inner.trace()) / energy, 0.0)
        value -= _DISTORTION * place.total * gone**2
        gradient += (2 * _DISTORTION * place.total * gone / energy) * of_gram
        gradient += of_product @ torch.cholesky_inverse(factor)
        gradient -= of_gram @ torch.cholesky_solve(share.T.contiguous(), factor)
    return value, 2 * (gradient - basis_CK @ (basis_CK.T @ gradient))


def climbed(places: Sequence[Place], start_CK: Tensor, num_steps: int) -> tuple[Tensor, float]:
    """A subspace that explains no less than the one at the start, and what it explains.

    Args:
        places: where the stream is read.
        start_CK: orthonormal columns.
        num_steps: at most; fewer where each takes very long.

    Returns:
        Orthonormal columns, shape [C, K].
    """
    (size, kept), total = start_CK.shape, sum(place.total for place in places)
    basis, (value, gradient) = start_CK, explained(places, start_CK)
    step, before = 0.1 / max(float(gradient.norm()), 1e-300), value
    for number in range(min(num_steps, int(_MOST_OPERATIONS / (8 * size**2 * kept * len(places))))):
        found = _higher(places, basis, gradient, step, value)
        if found is None:
            break
        moved, turned = found[0] - basis, gradient - found[2]
        along = abs(float((moved * turned).sum()))
        long = float(moved.square().sum()) / max(along, 1e-300)
        short = along / max(float(turned.square().sum()), 1e-300)
        step = min(long if number % 2 else short, 1e3 * found[3])
        basis, value, gradient = found[:3]
        if number % 5 == 4:
            if value - before < _ENOUGH * max(total - value, 0.0):
                break
            before = value
    return basis, value


def _higher(
    places: Sequence[Place], basis: Tensor, gradient: Tensor, step: float, value: float
) -> tuple[Tensor, float, Tensor, float] | None:
    """Subspace, value, gradient and step behind a step that climbs; None where none does."""
    for _ in range(_MOST_HALVINGS):
        moved = torch.linalg.qr(basis + step * gradient).Q
        moved = moved * torch.where((moved * basis).sum(dim=0) < 0, -1.0, 1.0)
        now, slope = explained(places, moved)
        if now > value:
            return moved, now, slope, step
        step /= 4
    return None
