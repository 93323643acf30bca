"""Do pieces of work give the same wherever they are done, on a network and samples that another process has?"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp.fit.calibration import Measured, calibrate
from snp.fit.preparation import is_known_everywhere, prepare, settle
from snp.fit.realise import Realised, fold_of, realise
from snp.measure.exact import plain_arithmetic
from snp.measure.samples import GivenSamples
from snp.plan.pieces import judged, tried, tried_without
from snp.plan.plan import PruningPlan
from snp.plan.progress import Progress
from snp.plan.workers import ONE_WORKER, Piece, Workers
from snp.pruning import decide
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.attention_networks import build as attention_network
from tests.networks import cnn, images
from tests.residual_networks import Basic, chain, vectors


def measured(model: nn.Module, inputs: Tensor, settings: PruneSettings) -> Measured:
    """What a process knows of a network."""
    given = GivenSamples(model, inputs.split(40))
    subject = subject_of(model, given.few[0].example(), settings)
    return calibrate(subject, given, settings, Progress())


class Elsewhere(Workers):
    """Every second piece goes through text to somebody who knows no sensitivity."""

    num_processes = 3

    def __init__(self, model: nn.Module, inputs: Tensor, settings: PruneSettings) -> None:
        found = measured(model, inputs, settings)
        other = Measured(found.subject, found.moments, found.samples, found.objective)
        subject, problem = prepare(other, settings)
        fold = partial(fold_of, subject, problem, settings.fit, other.samples)
        self._work = {
            "trial cuts": partial(tried, problem),
            "blocks": partial(tried_without, problem),
            "allocations": partial(judged, problem),
            "folds": fold,
        }
        self.counts: Counter[str] = Counter()

    def of(
        self, kind: str, pieces: Sequence[Piece], work: Callable[[Piece], Any], done: Callable[[], None] = lambda: None
    ) -> list[Any]:
        found = []
        for number, piece in enumerate(pieces):
            if number % 2:
                self.counts[kind] += 1
                found.append(json.loads(json.dumps(self._work[kind](json.loads(json.dumps(piece))))))
            else:
                found.append(work(piece))
            done()
        return found


def pruned(model: nn.Module, inputs: Tensor, settings: PruneSettings, workers: Workers) -> tuple[PruningPlan, Realised]:
    """As the library does it."""
    found = measured(model, inputs, settings)
    subject, problem = prepare(found, settings, workers=workers)
    plan = decide(subject, problem, settings).plan
    subject, problem = settle(found, plan, (subject, problem))
    return plan, realise(subject, problem, plan, settings.fit, found.samples)


FFN, BLOCKS = ("ffn",), ("ffn", "blocks")


@pytest.mark.parametrize(
    ("count", "structures", "kinds"),
    [
        (24, FFN, {"trial cuts", "folds"}),
        (136, FFN, {"trial cuts", "allocations"}),
        (160, BLOCKS, {"trial cuts", "blocks", "allocations"}),
    ],
)
def test_plan_and_weights_are_the_same(count: int, structures: tuple[str, ...], kinds: set[str]) -> None:
    """To the bit: of few samples, whose fits are cross-validated, and of more, by which allocations are judged."""
    model, inputs = (cnn().eval(), images(count)) if structures == FFN else (chain(Basic, 4), vectors(Basic, count))
    settings = PruneSettings(
        target_macs=0.6 if structures == FFN else 0.553, round_to=1, mirrored=False, structures=structures
    )
    with plain_arithmetic():
        elsewhere = Elsewhere(copy.deepcopy(model), inputs, settings)
        plan, result = pruned(copy.deepcopy(model), inputs, settings, elsewhere)
        wanted_plan, wanted = pruned(model, inputs, settings, ONE_WORKER)
    assert elsewhere.counts.keys() == kinds
    assert plan.to_json() == wanted_plan.to_json()
    for name, tensor in wanted.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name


def test_a_network_that_only_one_process_has_is_not_shared_out() -> None:
    """Heads lie in bases that sensitivities decide, and these are the first process's."""
    settings = PruneSettings(target_macs=0.8, structures=("ffn", "vo"))
    model = attention_network("vit")[0].eval()
    subject = subject_of(model, torch.randn(2, 3, 16, 16), settings)
    assert not is_known_everywhere(subject)
    assert is_known_everywhere(subject_of(model, torch.randn(2, 3, 16, 16), PruneSettings()))
    assert is_known_everywhere(subject_of(cnn().eval(), images(2), PruneSettings()))
