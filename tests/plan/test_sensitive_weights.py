"""Are readers' weights scaled by a root of the sensitivity, although its sums are rounded?"""

from dataclasses import replace

import torch
from torch import nn

from snp.fit.preparation import problem_of
from snp.measure.moments import MomentCollector
from snp.plan.statistics import group_statistics
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of


def test_products_of_scaled_weights_are_those_by_the_sensitivity() -> None:
    """Of low rank and with the rounding of single precision, which makes small eigenvalues negative."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4)).eval()
    inputs = torch.randn(24, 8)
    subject = subject_of(model, inputs[:2], PruneSettings(target_macs=0.5))
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        model(inputs)
    problem = problem_of(subject, collector.moments)
    generator = torch.Generator().manual_seed(0)
    for group in problem.groups:
        (member,) = group.consumers
        weight = problem.weights[member.tensor].double()
        few = torch.randn(max(2, len(weight) // 3), len(weight), generator=generator)
        scales = torch.logspace(0, -4, len(few))[:, None]
        fisher = ((few * scales).T @ (few * scales)).double()
        sensitive = replace(problem, sensitivity={member.tensor: fisher})
        (reader,) = group_statistics(sensitive, group, generator).readers
        columns = problem.readers[member.tensor].columns(member).reshape(-1)
        wanted = (weight.T @ fisher @ weight)[columns][:, columns]
        difference = (reader.weighted.T @ reader.weighted - wanted).abs().max()
        assert float(difference) < 1e-5 * float(wanted.abs().max())
