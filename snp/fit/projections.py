"""How are rows and columns of a linear layer changed, several times over, before they are written anywhere?"""

from __future__ import annotations

from torch import Tensor, nn

from snp.graph.units import module_of

__all__ = ["Projection"]


class Projection:
    """Weight and bias of a linear layer or 1 x 1 convolution, changed in a dictionary of new weights, in float64.

    Args:
        model: owns the layer; not changed.
        name: of the weight, shape [O, C] or [O, C, 1, ...].
        changed: tensor name -> what it has become; new values are put there.
        output_dim: 1 for a weight of shape [C, O], as that of GPT-2's Conv1D.
    """

    def __init__(self, model: nn.Module, name: str, changed: dict[str, Tensor], output_dim: int = 0) -> None:
        self._changed, self._name, self._is_turned = changed, name, output_dim == 1
        self._dense: dict[str, Tensor] = {name: model.get_parameter(name)}
        self._bias: str | None = None
        bias = getattr(model.get_submodule(module_of(name)), "bias", None)
        if isinstance(bias, Tensor):
            self._bias = f"{module_of(name)}.bias"
            self._dense[self._bias] = bias

    def _now(self, name: str) -> Tensor:
        value = self._changed.get(name, self._dense[name]).detach().double().cpu()
        value = value.flatten(1) if value.ndim > 1 else value
        return value.T if self._is_turned and value.ndim > 1 else value

    def weight(self) -> Tensor:
        """The whole weight, [O, C], float64."""
        return self._now(self._name)

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the weight, [R, C], and of the bias, [R] (zeros where there is none), float64."""
        weight = self._now(self._name)[rows]
        return weight, weight.new_zeros(len(rows)) if self._bias is None else self._now(self._bias)[rows]

    def rotate(self, rows: Tensor, matrix: Tensor) -> None:
        """Put ``matrix``, [R, R], times these rows in their place."""
        for name in self._dense:  # weight and bias
            value = self._now(name).clone()
            value[rows] = matrix @ value[rows]
            self._put(name, value)

    def rotate_columns(self, columns: Tensor, matrix: Tensor) -> None:
        """Put these columns, mapped by ``matrix``, [K, K], in their place."""
        value = self._now(self._name).clone()
        value[:, columns] = value[:, columns] @ matrix.T
        self._put(self._name, value)

    def _put(self, name: str, value: Tensor) -> None:
        value = value.T if self._is_turned and value.ndim > 1 else value
        self._changed[name] = value.to(self._dense[name]).reshape(self._dense[name].shape)
