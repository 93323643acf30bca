"""Which variants are compared?  A ladder on which every rung changes one thing, and tables that vary one thing only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peers import torchpruning

from snp.core import cuts, orderings

__all__ = ["PARTS", "Rung", "Table"]


@dataclass(frozen=True, eq=False)
class Rung:
    """One way to make a network smaller.

    Attributes:
        name: in tables.
        settings: of ``PruneSettings``, without target and seed; for Torch-Pruning its criterion and scope.
        maker: how it is made, a name of ``ladder.makers.MAKERS``.
        batch_norm: statistics are re-estimated on the calibration images afterwards.
        is_main: looked at closely, at all shares.
        is_seeded: does it look at the calibration images?  If not, it is measured once where seeds share test images.
        most_seeds: how many seeds are measured, the first ones.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    maker: str = "snp"
    batch_norm: bool = False
    is_main: bool = False
    is_seeded: bool = True
    most_seeds: int = 3

    @property
    def is_sequential(self) -> bool:
        """Are layers fitted in sequence?  That takes tens of seconds a cell, and all else seconds."""
        return self.maker == "snp" and self.settings.get("calibration", "sequential") == "sequential"


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one comparison on some networks."""

    title: str
    networks: tuple[str, ...]
    rungs: tuple[Rung, ...]


_JOINT = {"calibration": "joint", "conv_gram": "channel"}
_PATCH = {"calibration": "joint", "conv_gram": "patch"}
_DELETE = {"reconstruct": False, **_JOINT}
_BARE = {"intercept": False, "refit_all": False, "repair": False, "rectify": False}
_LINEAR = {"rectify": False}
_ZCA = {"ordering": "zca", "cut": "variance"}

_NETWORKS = ("resnet56", "efficientnet_lite0", "vit")
_DENSE = Rung("dense", maker="dense", is_main=True, is_seeded=False)
_PAPER = Rung("the paper: zca, variance, joint fit", {**_ZCA, **_JOINT}, is_main=True)
_DEFAULT = Rung("all defaults", {}, is_main=True)

LADDER = Table(
    "Ladder: every rung changes one thing",
    _NETWORKS,
    (
        _DENSE,
        Rung("random order, equal ratios, deletion", {"ordering": "random", "cut": "uniform", **_DELETE}),
        Rung("+ order zca", {"ordering": "zca", "cut": "uniform", **_DELETE}),
        Rung("+ cut by cumulative variance", {**_ZCA, **_DELETE}),
        _PAPER,
        Rung("  the same, BatchNorm re-estimated", {**_ZCA, **_JOINT}, batch_norm=True),
        Rung("+ patch Gram matrices", {**_ZCA, **_PATCH}),
        Rung("+ layers in sequence", {**_ZCA, **_BARE}),
        Rung("+ intercept", {**_ZCA, **_BARE, "intercept": True}),
        Rung("+ layers that lose nothing are fitted, too", {**_ZCA, **_LINEAR, "repair": False}),
        Rung("+ repair of residual streams", {**_ZCA, **_LINEAR}),
        Rung("+ what a ReLU cuts off need not be right", _ZCA),
        Rung("+ cut by output error and sensitivity", {"ordering": "zca", "cut": "output", "trials": False}),
        Rung("+ greedy output order", {"trials": False}),
        Rung("+ trial cuts: all defaults", _DEFAULT.settings, is_main=True),
        Rung("  the same, residual streams cut, too", {"streams": True}),
    ),
)

ORDERINGS = Table(
    "Orderings: equal ratios, joint fit on patches",
    _NETWORKS,
    (_DENSE, *(Rung(name, {"ordering": name, "cut": "uniform", **_PATCH}) for name in orderings.names())),
)

CUTS = Table(
    "Cuts: order zca, joint fit on patches",
    _NETWORKS,
    (_DENSE, *(Rung(name, {"ordering": "zca", "cut": name, **_PATCH}) for name in cuts.names())),
)

ALLOCATION = Table(
    "Where the budget is spent: greedy output order, layers in sequence",
    _NETWORKS,
    (
        _DENSE,
        Rung("equal ratios", {"ordering": "output", "cut": "uniform"}),
        Rung("cumulative variance, one threshold", {"ordering": "output", "cut": "variance"}),
        Rung("output error weighted by sensitivity", {"trials": False}),
        Rung("  the same, corrected by trial cuts (default)", _DEFAULT.settings, is_main=True),
        Rung("  the same, residual streams cut, too", {"streams": True}),
    ),
)


def _torch_pruning(criterion: str, scope: str, batch_norm: bool) -> Rung:
    where = "its own rules" if scope == "own" else "units inside blocks"
    name = f"Torch-Pruning {criterion}, {where}{', BatchNorm re-estimated' if batch_norm else ''}"
    seeds = 1 if scope == "own" else 3
    looks = batch_norm or criterion in ("taylor", "hessian")
    return Rung(
        name, {"criterion": criterion, "scope": scope}, "torch_pruning", batch_norm, is_seeded=looks, most_seeds=seeds
    )


_VBP = {"planner": "vbp", **_JOINT}
PEERS = Table(
    "Peers at equal MACs",
    _NETWORKS,
    (
        _DENSE,
        Rung("magnitude, equal ratios, deletion", {"planner": "magnitude", **_DELETE}, is_seeded=False),
        *(
            _torch_pruning(criterion, scope, batch_norm)
            for scope in torchpruning.SCOPES
            for criterion in torchpruning.CRITERIA
            for batch_norm in (False, True)
        ),
        Rung("variance pruning, mean into bias (VBP)", _VBP, "mean_folding"),
        Rung("  the same, BatchNorm re-estimated", _VBP, "mean_folding", batch_norm=True),
        Rung("local search over sets (OSSCAR), joint fit on patches", {"planner": "osscar", **_PATCH}),
        Rung("  the same, BatchNorm re-estimated", {"planner": "osscar", **_PATCH}, batch_norm=True),
        _PAPER,
        _DEFAULT,
    ),
)

_DIGITS = (Rung("dense", maker="dense", is_main=True, is_seeded=False),)
RANDOM_ORDER = Table(
    "The paper's second experiment, random against zca order: ResNet-20 on digits, cumulative variance, joint fit",
    ("resnet20_digits",),
    (
        *_DIGITS,
        Rung("random", {"ordering": "random", "cut": "variance", **_JOINT}, is_main=True),
        Rung("zca", {**_ZCA, **_JOINT}, is_main=True),
    ),
)
RATIOS = Table(
    "The paper's third experiment, cumulative variance against equal ratios: ResNet-50 on digits, order zca, joint fit",
    ("resnet50_digits",),
    (
        *_DIGITS,
        Rung("equal ratios", {"ordering": "zca", "cut": "uniform", **_JOINT}, is_main=True),
        Rung("cumulative variance", {**_ZCA, **_JOINT}, is_main=True),
    ),
)

PARTS: dict[str, tuple[Table, ...]] = {
    "ladder": (LADDER, ORDERINGS, CUTS),
    "peers": (PEERS,),
    "allocation": (ALLOCATION,),
    "paper": (RANDOM_ORDER, RATIOS),
}
