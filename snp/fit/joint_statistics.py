"""Which statistics do normalisation layers see, once all weights were fitted on the dense network's activations?

The network is computed once, layer by layer for all samples, so that each layer's statistics are those of what the
layers in front, with theirs, feed it. Of the dense network nothing is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, fx, nn

from snp.core.fit_settings import FitSettings
from snp.core.sums import Sums
from snp.fit.batch_norm import is_norm, reestimate
from snp.fit.rows import batch_size_for, equal_batches
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.graph.exported import footprint
from snp.plan.plan import PruningPlan
from snp.surgery.subject import Subject
from snp.surgery.surgery import silent_rows

__all__ = ["with_statistics"]


class _OneNetwork(TwoNetworks):
    """The changed network alone, at half of the time and memory."""

    @property
    def bytes_per_batch(self) -> int:
        """What is held of one batch at most."""
        return footprint(self.graph, self.end)

    def differs(self, node: fx.Node) -> bool:
        """Does the value of a computed node depend on a tensor that changed?"""
        return node in self._moved

    def run(self) -> None:
        """Compute the nodes in order, up to the last one whose statistics may change."""
        self._moved = set[fx.Node]()
        self.end = next((node for node in reversed(self.graph.nodes) if is_norm(node)), None)
        super().run()

    def _call(self, node: fx.Node) -> None:
        read = {self._names[argument.name] for argument in node.all_input_nodes if argument.name in self._names}
        if read & self.changed.keys() or not self._moved.isdisjoint(node.all_input_nodes):
            self._moved.add(node)
        self.current[node] = self.dense[node] = self._values(node, self.current, self.tensors)


def with_statistics(
    subject: Subject,
    plan: PruningPlan,
    fitted: Mapping[str, Tensor],
    batches: Sequence[Batch],
    settings: FitSettings,
    sums: Sums,
) -> dict[str, Tensor]:
    """Fitted tensors, and the statistics that go with them.

    Args:
        subject: the dense network.
        plan: the units that stay.
        fitted: name -> dense-shaped tensor.
        batches: inputs on its device, as many as there is memory for.
        settings: how weights are fitted.
        sums: over all processes.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in subject.model.modules()):
        return dict(fitted)  # without an export

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        if is_norm(node):
            reestimate(networks, node)

    alike = equal_batches(batches, batch_size_for(sum(batch.size for batch in batches)))
    network = _OneNetwork(subject.model, alike, visit, sums, subject.exports, subject.visits)
    network.limit(int(settings.memory_gib * 2**30))
    network.zero_rows(silent_rows(plan))
    for name, tensor in fitted.items():
        network.change(name, tensor)
    network.run()
    return dict(sorted(network.changed.items()))
