"""What is left of a network's features and maps, where it names no classes?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import Batches
from torch import Tensor, nn

# The protocol of DINO: nearest neighbours by the cosine of features, weighed by exp(cosine / temperature).
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
# Images that go through a network at once: more are slower on few cores.
_AT_ONCE = 16


class Neighbours:
    """Do the nearest images of a bank name the class of a test image, by the features of one network?

    Args:
        bank: images whose classes are known.
        test: images whose classes are asked for.
        dense: the network that features are compared with.
    """

    def __init__(self, bank: Batches, test: Batches, dense: nn.Module) -> None:
        self._bank, self._test = bank, test
        self._wanted = features(dense, test)
        self.dense = self._percent(features(dense, bank), self._wanted)

    def of(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy in percent, and mean cosine of the test images' features to the dense network's."""
        found = features(network, self._test)
        cosine = float(F.cosine_similarity(found, self._wanted).mean())
        return self._percent(features(network, self._bank), found), cosine

    def _percent(self, bank: Tensor, test: Tensor) -> float:
        held, asked = (torch.cat([labels for _, labels in batches]) for batches in (self._bank, self._test))
        return 100 * float((nearest_class(bank, held, test) == asked).double().mean())


def nearest_class(bank: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """The class of every test row that the nearest rows of the bank vote for, as DINO (arXiv 2104.14294) does it.

    Args:
        bank: features [B, width], at least 20 rows.
        labels: their classes, int64 [B].
        test: features [T, width].

    Returns:
        Classes, int64 [T].
    """
    cosines, places = (F.normalize(test) @ F.normalize(bank).T).topk(NUM_NEIGHBOURS)
    votes = torch.zeros(len(test), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[places], (cosines / TEMPERATURE).exp()).argmax(dim=1)


def features(network: nn.Module, batches: Batches) -> Tensor:
    """What a network gives out for images, [N, ...]."""
    with torch.inference_mode():
        return torch.cat([network(few) for pixels, _ in batches for few in pixels.split(_AT_ONCE)])


class MapError:
    """How much of the maps' variance over all pixels is error, beside those of the dense network?

    Args:
        test: images.
        dense: the network that maps are compared with.
    """

    def __init__(self, test: Batches, dense: nn.Module) -> None:
        self._test = test
        self._wanted = features(dense, test)
        self._variance = (self._wanted - self._wanted.mean()).square().sum()

    def of(self, network: nn.Module) -> float:
        """Squared error relative to the variance: 0 the same, 1 no better than their mean."""
        return float((features(network, self._test) - self._wanted).square().sum() / self._variance)
