"""Can a detector be pruned, whose selection of boxes no export follows?"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import snp
from tests.audit import randomise


class Backbone(nn.Sequential):
    """Images to one map of eight channels."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU())


class BeforeBoxes(nn.Module):
    """What a detector computes before it selects boxes."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> Any:
        return self.head([self.backbone(images)])


def detector() -> nn.Module:
    torch.manual_seed(0)
    anchors = AnchorGenerator(((8, 16),), ((1.0,),))
    return randomise(RetinaNet(Backbone(), 3, anchor_generator=anchors, min_size=32, max_size=32))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_whole_detector_is_refused_with_the_way_around() -> None:
    """Boxes are selected by their scores, so the number of them is a value; what to prune instead is said."""
    with pytest.raises(ValueError, match=r"RetinaNet cannot be exported.*a detector's backbone and head"):
        snp.prune(detector(), [images(4)], target_macs=0.7)


def test_layers_before_the_boxes_are_cut_and_put_back() -> None:
    """As the refusal says: the detector with its cut layers runs, and detects what the cut layers say."""
    model: Any = detector()
    result = snp.prune(BeforeBoxes(model), [images(4, seed) for seed in range(4)], target_macs=0.7)
    assert result.plan.macs["pruned"] <= 0.7 * result.plan.macs["dense"]
    assert {"backbone.0", "backbone.3"} <= {decision.group.name for decision in result.plan.groups}
    small: Any = result.model
    model.backbone, model.head = small.backbone, small.head
    with torch.no_grad():
        found = model([image for image in images(2, seed=9)])
    assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2
    assert all(len(one["boxes"]) > 0 for one in found)
