"""How much of a VGG-16 layer's output is left when units of its input go, with and without least squares?

The first experiment of the paper's summary, on one layer and on images that the fit has not seen: the relative error
||W X - W' X_kept|| / ||W X|| of the layer's outputs, over all positions of the digits' test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from harness import Batches, spread
from torch import Tensor, nn

from ladder.networks import digits_network
from ladder.results import Results
from snp.core import orderings
from snp.core.reconstruct import fold, transfer
from snp.fit.preparation import problem_of
from snp.measure.moments import MomentCollector
from snp.measure.readers import Reader
from snp.plan.problem import Problem
from snp.plan.statistics import group_statistics
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of

__all__ = ["SHARES", "errors", "rows_of", "run"]

# The second of the three convolutions on 256 channels: it reads 256 units in patches of 3 x 3, 2,304 columns.
READER = "0.17.weight"
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
FITS = {"channel": "one transfer per kernel (the paper)", "patch": "every kernel element", "none": "deletion"}


def run(cache: Path | None, seeds: Sequence[int], results: Results) -> None:
    """Measure what is not there yet."""
    keys = {seed: {"experiment": "vgg_layer", "seed": seed} for seed in seeds}
    if all(results.find(key) for key in keys.values()):
        return
    network = digits_network("vgg16", cache)
    for seed, key in keys.items():
        results.measure(key, lambda seed=seed: errors(network.model, network.calibration(seed), network.test(seed)))


def errors(model: nn.Module, calibration: Batches, test: Batches) -> dict[str, dict[str, float]]:
    """Relative error of the layer's outputs on the test images: fit -> share of units pruned -> error."""
    grams = {gram: _problem(model, calibration, gram) for gram in ("channel", "patch")}
    subject, _, reader = grams["patch"]
    held_out = _moments(subject, test)[READER].second
    group = next(g for g in subject.groups if any(member.tensor == READER for member in g.consumers))
    order = orderings.load("zca")(group_statistics(grams["channel"][1], group, torch.Generator()))
    weight = subject.model.get_parameter(READER).detach()
    member = next(member for member in group.consumers if member.tensor == READER)
    found: dict[str, dict[str, float]] = {fit: {} for fit in FITS}
    for share in SHARES:
        units = order[: round((1 - share) * len(order))].sort().values
        for fit in FITS:
            _, problem, reader = grams["channel" if fit == "none" else fit]
            kept = reader.columns(member)[units].reshape(-1)
            columns = _transfer(problem, reader, kept, deletes=fit == "none")
            found[fit][str(share)] = _relative_error(weight, fold(weight, columns, kept), held_out)
    return found


def _problem(model: nn.Module, calibration: Batches, gram: str) -> tuple[Subject, Problem, Reader]:
    settings = PruneSettings(calibration="joint", conv_gram=gram, ordering="zca", cut="variance")
    subject = subject_of(model, calibration[0][0][:2], settings)
    problem = problem_of(subject, _moments(subject, calibration))
    return subject, problem, problem.readers[READER]


def _moments(subject: Subject, batches: Batches) -> dict:
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for images, _ in batches:
            subject.model(images)
    return collector.moments


def _transfer(problem: Problem, reader: Reader, kept: Tensor, *, deletes: bool) -> Tensor:
    if deletes:
        return torch.eye(reader.num_columns, dtype=torch.float64)[:, kept]
    return transfer(problem.moments[READER].second, kept)


def _relative_error(weight: Tensor, folded: Tensor, gram: Tensor) -> float:
    """||(W - W') X|| / ||W X|| from the Gram matrix of the patches X."""
    rows, difference = weight.flatten(1).double(), (weight - folded).flatten(1).double()
    return float(((difference @ gram * difference).sum() / (rows @ gram * rows).sum()).clamp_min(0).sqrt())


def rows_of(results: Results, seeds: Sequence[int]) -> list[list[str]]:
    """Rows of the table: a fit, then the errors by share."""
    found = [values for seed in seeds if (values := results.find({"experiment": "vgg_layer", "seed": seed}))]
    if not found:
        return []
    return [[name, *(spread([v[fit][str(s)] for v in found], 3) for s in SHARES)] for fit, name in FITS.items()]
