"""What is asked of a prune?  Options at random, over all planners, orderings and cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import snp
from fuzzing.draw import Draw

__all__ = ["SEES_COPIES", "options", "options_of_copies"]

# Orderings that say how much of a unit the units that stay explain.
SEES_COPIES = ("output", "pivoted", "residual", "zca")


def _files(folder: str) -> list[str]:
    found = (Path(snp.__file__).parent / folder).glob("*.py")
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def options(draw: Draw) -> dict[str, Any]:
    """All options."""
    planner = "snp" if draw.flag(0.7) else draw.one_of(*_files("plan/planners"))
    asked: dict[str, Any] = {"planner": planner, "streams": draw.flag(), "seed": draw.rng.randint(0, 9)}
    target = draw.one_of("macs", "macs", "macs", "params", "units", "units", "units", "var")
    if target == "var" and planner != "snp":
        target = "units"
    level = draw.rng.uniform(0.6, 0.95) if target in ("macs", "params") else draw.rng.uniform(0.2, 0.99)
    asked[f"target_{target}"] = round(level, 2)
    if draw.flag(0.6):
        asked["ordering"] = draw.one_of(*_files("core/orderings"))
    if target in ("macs", "params") and draw.flag(0.4):
        asked["cut"] = draw.one_of(*_files("core/cuts"))
    asked |= _of_attention(draw) | _of_fit(draw)
    if draw.flag(0.7):
        asked["round_to"] = draw.one_of(1, 2, 3)
        asked["round_from"] = draw.one_of(None, 1, 6)
    return asked


def _of_attention(draw: Draw) -> dict[str, Any]:
    if draw.flag(0.3):
        return {}
    parts = ("ffn", "vo", "qk", "heads")
    asked: dict[str, Any] = {"structures": tuple(draw.rng.sample(parts, draw.rng.randint(1, 4)))}
    if draw.flag(0.6) and "ffn" not in asked["structures"]:
        asked["structures"] += ("ffn",)
    if len({"vo", "qk"} & set(asked["structures"])) != 1 and draw.flag(0.3):
        asked["attention"] = "equal"
    return asked


def _of_fit(draw: Draw) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "reconstruct": draw.flag(0.8),
        "calibration": "sequential" if draw.flag(0.65) else "joint",
        "conv_gram": draw.one_of("patch", "patch", "channel"),
        "batch_norm": "reestimate" if draw.flag(0.2) else "keep",
    }
    switches = ("trials", "intercept", "repair", "rectify", "refit_all")
    asked |= {name: False for name in switches if draw.flag(0.2)}
    if draw.flag(0.4):
        asked["ridge"] = draw.one_of(0.0, 1e-6, 1e-4, 1e-2)
    return asked


def options_of_copies(draw: Draw) -> dict[str, Any]:
    """What must find that half of all units are copies: any order that sees it, any fit."""
    asked = _of_fit(draw) | {"reconstruct": True, "batch_norm": "keep", "target_units": 0.5, "round_to": 1}
    return asked | {"ordering": draw.one_of(*SEES_COPIES)}
