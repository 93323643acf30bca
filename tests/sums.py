"""What several processes would add up, in one: sums that pass through a hand."""

from collections.abc import Callable

from torch import Tensor

from snp.core.sums import Sums


class SumsBy(Sums):
    """Sums over processes as a function says."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def of(self, tensor: Tensor) -> Tensor:
        return self.function(tensor)


DOUBLED = SumsBy(lambda tensor: 2 * tensor)
