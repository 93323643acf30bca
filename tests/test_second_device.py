"""Do network, examples, moments and batches stay on one device, wherever the network is?  Tried without a GPU."""

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.core import orderings
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.plan import placing, planners
from snp.settings import PruneSettings
from snp.speed.layer_times import measure_table, measured_share
from snp.speed.passes import Conditions
from snp.surgery.subject import subject_of
from tests.attention_networks import build as attention_network
from tests.command_line import Ended, run_here
from tests.networks import attention, cnn, images, language, tokens, words
from tests.residual_networks import Basic, chain, vectors
from tests.second_device import SECOND, second_device


@pytest.fixture
def _second() -> Iterator[None]:
    with second_device():
        yield


@pytest.mark.usefixtures("_second")
def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    """Operators over both devices, host code on the second, and generators of the CPU; scalars and indices pass."""
    here, there = torch.randn(3, 3), torch.randn(3, 3).to(SECOND)
    assert there.device == SECOND
    assert (there @ there).device == SECOND
    assert there.T[:2].clone().device == SECOND
    assert copy.deepcopy(nn.Linear(2, 2).to(SECOND)).weight.device == SECOND
    with pytest.raises(RuntimeError, match="same device"):
        here @ there
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.zeros(3)
    with pytest.raises(RuntimeError, match="generator"):
        there.bernoulli_(generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert torch.equal((there + torch.tensor(1.0))[torch.tensor([0, 2])].cpu(), (there.cpu() + 1)[[0, 2]])
    assert torch.equal(torch.zeros(3, device=SECOND).to("cpu"), torch.zeros(3))


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, Any]]] = {
    "defaults": (cnn, images, {"target_macs": 0.6}),
    "paper": (cnn, images, {"target_var": 0.9, "calibration": "joint", "conv_gram": "channel"}),
    "streams": (cnn, images, {"target_macs": 0.6, "streams": True}),
    "reestimate": (cnn, images, {"target_macs": 0.6, "batch_norm": "reestimate"}),
    "osscar": (cnn, images, {"target_units": 0.5, "planner": "osscar", "cut": "uniform"}),
    "transformer": (attention, tokens, {"target_macs": 0.7}),
    "language": (language, words, {"target_params": 0.8}),
    "heads": (lambda: attention_network("vit")[0], lambda: torch.randn(24, 3, 16, 16),
              {"target_macs": 0.8, "structures": ("ffn", "vo", "qk")}),
    "blocks": (lambda: chain(Basic, 4), lambda: vectors(Basic, 160),
               {"target_macs": 0.553, "structures": ("ffn", "blocks")}),
    "width": (lambda: attention_network("vit")[0], lambda: torch.randn(24, 3, 16, 16),
              {"target_macs": 0.8, "structures": ("ffn", "width")}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_library_on_another_device(name: str) -> None:
    """The small network is where the dense one was, and the same as on the CPU to the last bit."""
    make, batches, options = CALLS[name]
    inputs = batches()
    # Half of the batches come from the host, as a data loader gives them.
    pieces = [inputs[:16], (inputs[16:32], torch.zeros(16)), inputs[32:]]
    pieces = [piece for piece in pieces if len(piece)]
    model = make().eval()
    with second_device():
        found = snp.prune(copy.deepcopy(model).to(SECOND), pieces, round_to=1, **options)
        assert {tensor.device for tensor in found.model.state_dict().values()} == {SECOND}
        small = found.model.to("cpu")
    wanted = snp.prune(model, pieces, round_to=1, **options)
    assert [group.kept.tolist() for group in found.plan.groups] == [group.kept.tolist() for group in wanted.plan.groups]
    for tensor, want in zip(small.state_dict().values(), wanted.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, want)


@pytest.mark.parametrize("way", [*((name, "snp") for name in orderings.names()), *(("", n) for n in planners.names())])
def test_units_are_chosen_on_another_device(way: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ordering and planner works where the network is, and chooses what it chooses on the CPU."""
    ordering, planner = way
    # Fits and trial cuts are the same for all of them, and are tried above.
    options: dict[str, Any] = {"target_macs": 0.6, "round_to": 1, "planner": planner, "reconstruct": False}
    if ordering:
        options |= {"ordering": ordering, "cut": "output" if ordering == "output" else "variance"}
    places = set()

    def place_of(device: torch.device, sizes: Iterable[int]) -> torch.device:
        places.add(placing.place_of(device, sizes))
        return device

    monkeypatch.setattr("snp.plan.statistics.place_of", place_of)
    model, batches = cnn().eval(), [images(32), images(32)]
    with second_device():
        found = snp.prune(copy.deepcopy(model).to(SECOND), batches, **options)
    if ordering or planner in ("snp", "osscar"):
        assert places == {SECOND}
    wanted = snp.prune(model, batches, **options)
    assert [group.kept.tolist() for group in found.plan.groups] == [group.kept.tolist() for group in wanted.plan.groups]


def test_work_on_what_is_too_large_is_done_in_main_memory() -> None:
    """A device without the room, and devices without double precision."""
    with second_device():
        assert placing.place_of(SECOND, [1000]) == SECOND
        assert placing.place_of(SECOND, [10**6]) == torch.device("cpu")
    assert placing.place_of(torch.device("mps"), [10]) == torch.device("cpu")


@pytest.mark.usefixtures("_second")
def test_what_stays_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that does not follow its network fails here as it would on a GPU."""
    monkeypatch.setattr(Batch, "beside", lambda batch, model: batch)
    model = cnn().eval().to(SECOND)
    with pytest.raises(Exception, match="same device"):
        snp.prune(model, [images()], target_macs=0.6)
    monkeypatch.undo()
    assert Batch.of(images()).beside(model).args[0].device == SECOND


@pytest.mark.usefixtures("_second")
def test_streamed_on_another_device() -> None:
    """Calibration block by block stays with the network."""
    model = attention().eval().to(SECOND)
    options = {
        "target_params": 0.8,
        "ordering": "zca",
        "cut": "variance",
        "calibration": "joint",
        "conv_gram": "channel",
    }
    found = prune_streamed(model, [tokens().to(SECOND)], **options)
    assert {tensor.device for tensor in found.model.state_dict().values()} == {SECOND}


@pytest.mark.rehearsal
@pytest.mark.usefixtures("_second")
def test_a_budget_of_time_on_another_device() -> None:
    """Whole blocks are timed, weighed and taken out there, too."""
    model, inputs = chain(Basic, 4), vectors(Basic, 160)
    for name in ("last.weight", "last.bias"):
        model.get_parameter(f"blocks.2.{name}").data.zero_()
    found = snp.prune(model.to(SECOND), inputs.split(40), target_latency=0.9, latency_batch=16, progress=False)
    assert "blocks.2" in [block.name for block in found.plan.removed_blocks]
    assert {tensor.device for tensor in found.model.state_dict().values()} == {SECOND}


@pytest.mark.usefixtures("_second")
def test_layers_are_timed_on_another_device() -> None:
    """What a latency budget and the comparison of two networks measure."""
    model = cnn().eval().to(SECOND)
    subject = subject_of(model, Batch.of(images(2)), PruneSettings())
    table = measure_table(subject, subject.example, Conditions(2, 1))
    assert table.layers
    assert measured_share(model, model, subject.example, Conditions(2, 1))["passes"] > 0


@pytest.mark.rehearsal
@pytest.mark.timeout(900)
def test_a_whole_run_on_another_device(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """Every stage of `run.py`, training included, and the numbers of the run on the CPU."""
    (tmp_path / "cache").mkdir()
    shutil.copy(next(finished_run[0].glob("dense-*")), tmp_path / "cache")
    options = ("trainer._target_=tests.second_device.trainer", f"cache_dir={tmp_path}/cache")
    with second_device():
        ended = run_here(*options, "finetune.distil=0.5", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert "the dense weights of an earlier run are used" in ended.stdout
    here, there = (json.loads((at / "metrics.json").read_text()) for at in (finished_run[0], tmp_path / "run"))
    for name in ("dense/acc1_percent", "pruned/acc1_percent", "pruned/macs", "calibration/samples"):
        assert there[name] == here[name], name
    assert there["finetuned/acc1_percent"] is not None
    plans = [json.loads((at / "plan.json").read_text())["groups"] for at in (finished_run[0], tmp_path / "run")]
    assert plans[0] == plans[1]


def test_a_device_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that are missing there, or wrong, are found before a group is given to it."""
    place, factorize = placing.place_of, placing.factorize

    def missing(*_: Any) -> Any:
        raise NotImplementedError("no such operator on this device")

    def wrong(gram: Tensor, *rest: Any) -> Any:
        found = factorize(gram, *rest)
        return replace(found, residual=found.residual * 1.01) if gram.device == SECOND else found

    with second_device():
        for broken in (missing, wrong):
            placing.computes.cache_clear()
            monkeypatch.setattr(placing, "factorize", broken)
            assert place(SECOND, [10]) == torch.device("cpu")
        monkeypatch.undo()
        placing.computes.cache_clear()
        assert place(SECOND, [10]) == SECOND
