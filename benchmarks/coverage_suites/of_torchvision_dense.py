"""Detection, segmentation, video and optical flow of torchvision, by their smallest builders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

__all__ = ["BUILDERS"]


class BeforeBoxes(nn.Module):
    """The layers of a detector, up to where it selects boxes, whose number depends on what it sees.

    They are the detector's own: cut, they take their places in it again. Images [N, 3, H, W], and what a detector of
    two stages gets to see of each box, [R, 256, 7, 7].
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head
        self.of_box: nn.Module | None = None
        if hasattr(detector, "roi_heads"):
            self.of_box = nn.Sequential(detector.roi_heads.box_head, detector.roi_heads.box_predictor)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor | None = None) -> Any:
        """Scores and offsets everywhere; of two stages those of boxes, too, and the features that boxes lie in."""
        features = list(self.backbone(images).values())
        return self.head(features) if self.of_box is None else (features, self.head(features), self.of_box(boxes))


def _detector(name: str) -> tuple[nn.Module, Any]:
    model, images = _build(name, (3, 128, 128), {**_PLAIN, "num_classes": 5})
    layers = BeforeBoxes(model)
    boxes = torch.randn(4, 256, 7, 7, generator=torch.Generator().manual_seed(1))
    return layers.eval(), images if layers.of_box is None else ((images, boxes),)


def _build(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.eval(), torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


def _flow(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    first, second = (torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return model.eval(), ((first, second),)


_PLAIN = {"weights_backbone": None}
BUILDERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **{
        f"segmentation/{name}": partial(_build, name, (3, 64, 64), {**_PLAIN, "num_classes": 5, **more})
        for name, more in {
            "fcn_resnet50": {"aux_loss": True},
            "deeplabv3_mobilenet_v3_large": {},
            "lraspp_mobilenet_v3_large": {},
        }.items()
    },
    **{
        f"detection/{name}": partial(_detector, name)
        for name in ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn")
    },
    **{
        f"video/{name}": partial(_build, name, (3, 8, 64, 64), {"num_classes": 5})
        for name in ("r3d_18", "mc3_18", "r2plus1d_18")
    },
    "video/s3d": partial(_build, "s3d", (3, 16, 224, 224), {"num_classes": 5}),  # pools over maps of that size
    "optical_flow/raft_small": partial(_flow, "raft_small"),
}
