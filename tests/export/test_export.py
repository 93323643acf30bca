"""Does an exported network compute what the pruned one computes, and is what cannot be exported refused?"""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import snp
from snp import models
from snp.data.digits import Digits
from snp.export import export_onnx, export_program, quantise
from snp.export.__main__ import main
from snp.export.dense import dense_network
from snp.export.folder import ExportFolder
from snp.export.programs import TOLERANCE, largest_difference, session_of
from snp.export.scores import Score, is_noisy, table
from snp.models import huggingface
from snp.models.sources.weights import read_weights, state_hash, write_weights
from snp.plan.plan import GroupPlan, PruningPlan
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from snp.surgery.surgery import cut
from tests.transformer_models import CONFIGS, SIZES, save_folder, sentences, token_batches, transformer

onnx = pytest.importorskip("onnx", reason="the extra packages of snp[export] are not installed")
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra packages of snp[export] are not installed")

# The exporter's own use of deprecated calls.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def halved(model: nn.Module, example: torch.Tensor, **options: object) -> nn.Module:
    """The model with every second unit of each group gone."""
    subject = subject_of(model.eval(), example, PruneSettings(**options))  # type: ignore[arg-type]
    plans = []
    for group in subject.groups:
        size = group.num_units // group.num_partitions
        first = torch.arange(group.num_partitions)[:, None] * size
        plans.append(GroupPlan(group, (first + torch.arange(max(1, size // 2))).flatten()))
    return cut(subject.model, PruningPlan(tuple(plans), attention=subject.graph.attention)).eval()


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def test_convolutions_in_onnx_program_and_int8(tmp_path: Path) -> None:
    """All three files agree with the pruned network, the first two to 1e-4, at any batch size."""
    images = torch.randn(8, 3, 12, 12)
    small = halved(convolutional(), images[:2])
    assert export_onnx(small, images[:4], tmp_path / "model.onnx") <= TOLERANCE
    program = export_program(small, images[:4], tmp_path / "model.pt2")
    assert program.state_dict["0.weight"].shape == (8, 3, 3, 3)
    with torch.no_grad():
        wanted = small(images)
    assert largest_difference(session_of(tmp_path / "model.onnx")(images), wanted) <= TOLERANCE
    quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", images.split(4))
    assert 1e-6 < largest_difference(session_of(tmp_path / "int8.onnx")(images), wanted) < 0.1


def test_attention_with_two_head_sizes(tmp_path: Path) -> None:
    """Our attention module is exported like any other."""
    torch.manual_seed(0)
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 4}
    images = torch.randn(2, 3, 16, 16)
    small = halved(timm.models.VisionTransformer(**options), images, structures=("ffn", "vo"))
    assert any(type(module).__name__ == "SplitAttention" for module in small.modules())
    assert export_onnx(small, images, tmp_path / "model.onnx") <= TOLERANCE
    export_program(small, images, tmp_path / "model.pt2")


class Branching(nn.Module):
    """Its path depends on values: no graph shows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence each: a network without a graph, one sample, training mode, no batches, folders of other kinds."""
    images = torch.randn(2, 3, 12, 12)
    with pytest.raises(ValueError, match=r"torch\.export of Branching failed"):
        export_program(Branching().eval(), images, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="at least 2 samples"):
        export_onnx(convolutional(), images[:1], tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="training mode"):
        export_onnx(convolutional().train(), images, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    for words, said in (([str(tmp_path)], "holds no plan.json"), ([str(tmp_path / "none")], "holds no plan.json")):
        with pytest.raises(SystemExit) as ending:
            main(words)
        assert ending.value.code == 2
        assert said in capsys.readouterr().err


class OfTokens(nn.Module):
    """From tokens to three numbers, by the last of a recurrent layer: `torch.export` fixes the length of such texts."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells, self.head = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.table(tokens))[0][:, -1])


class Convolved(OfTokens):
    """Texts of fewer than seven tokens are too short for it."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table(tokens).unfold(1, 7, 1).mean(-1)


class Batched(nn.Module):
    """Holds for batches of four only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(4, 8).relu()


@pytest.mark.parametrize("network", [OfTokens, Convolved])
def test_texts_are_tried_in_lengths_that_the_program_takes(network: type[nn.Module], tmp_path: Path) -> None:
    """Of one length, or of some length at least."""
    torch.manual_seed(0)
    tokens = torch.randint(20, (16, 9))
    model = network().eval()
    program = export_program(model, tokens, tmp_path / "model.pt2").module()
    longer = torch.randint(20, (3, 9 if network is OfTokens else 12))
    with torch.no_grad():
        torch.testing.assert_close(program(longer), model(longer))


def test_a_network_for_one_size_of_batches_is_refused(tmp_path: Path) -> None:
    """In words of ours, whoever notices it."""
    with pytest.raises(ValueError, match=r"Batched takes batches of 4 only: .*; write x\.shape\[0\]"):
        export_program(Batched().eval(), torch.randn(4, 8), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"a pass of model\.onnx of Batched failed: .*cannot be reshaped"):
        export_onnx(Batched().eval(), torch.randn(4, 8), tmp_path / "model.onnx")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_onnx_is_of_networks_in_single_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """Others are refused before a file is written; programs keep any precision."""
    model, images = convolutional().to(dtype), torch.randn(2, 3, 12, 12, dtype=dtype)
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"0\.weight is {word}: ONNX Runtime on the CPU .* with model\.float\(\)"):
        export_onnx(model, images, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    export_program(model, images, tmp_path / "model.pt2")


def test_double_precision_is_exported_where_the_runtime_agrees(tmp_path: Path) -> None:
    """It multiplies matrices in it, and has no convolutions; both or neither, network and example, are in it."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).double().eval()
    assert export_onnx(model, torch.randn(4, 8, dtype=torch.float64), tmp_path / "model.onnx") < 1e-14
    with pytest.raises(ValueError, match=r"^0\.weight is float64: ONNX Runtime on the CPU .* with model\.float\(\)"):
        export_onnx(model, torch.randn(4, 8), tmp_path / "other.onnx")
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"reading other\.onnx back .* is in double precision, float64: ONNX Runtime"):
        export_onnx(convolutional().double(), images, tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_paths_may_be_text(tmp_path: Path) -> None:
    """As everywhere else; what is no path is named."""
    images = torch.randn(2, 3, 12, 12)
    assert export_onnx(convolutional(), images, str(tmp_path / "model.onnx")) <= TOLERANCE
    export_program(convolutional(), images, str(tmp_path / "model.pt2"))
    quantise(str(tmp_path / "model.onnx"), str(tmp_path / "int8.onnx"), [images])
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.pt2", "int8.onnx"}
    with pytest.raises(ValueError, match=r"path must be one path, found 1\.5"):
        export_onnx(convolutional(), images, 1.5)  # type: ignore[arg-type]


def test_files_for_images_of_another_size_are_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written and timed; int8 has no samples to calibrate on, and writes nothing."""
    pruned_digits(tmp_path)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--input-shape", "3,16,16", "--int8"])
    said = "its images are 3x8x8 where the files read 3x16x16"
    assert f"--int8 needs the samples of the run, and {said}: leave out --input-shape" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
    monkeypatch.setattr("snp.export.scores._SECONDS", 0.1)
    main([str(tmp_path), "--input-shape", "3,16,16"])
    printed = capsys.readouterr().out  # between the two a noisy clock is told of
    assert "Accuracy was not measured.\n" in printed
    assert f"\nNot scored on the samples of the run: {said}." in printed
    rows = json.loads((tmp_path / "export" / "scores.json").read_text())
    assert [(row["name"], row["accuracy"]) for row in rows] == [("dense", None), ("pruned", None)]
    assert session_of(tmp_path / "export" / "model.onnx")(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_encoders_of_text_are_not_exported_as_language_models(tmp_path: Path) -> None:
    """What they say of a token depends on tokens behind it, and a mask would have to go with them."""
    config = {"model_type": "bert", **SIZES, "intermediate_size": 24, "max_position_embeddings": 32}
    recipe = {"family": "huggingface", "arguments": {"config": config, "auto_class": huggingface.CAUSAL}}
    options = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}
    snp.save(snp.prune(models.build(**recipe).eval(), token_batches(12), **options), tmp_path, recipe)
    with pytest.raises(
        ValueError, match=r"are exported; BertLMHeadModel says of a token what depends on tokens behind"
    ):
        ExportFolder(tmp_path).network("pruned")


def test_folders_in_half_precision_are_exported_in_single_precision(tmp_path: Path) -> None:
    """As runs with `model.dtype=bfloat16` leave them."""
    auto_class, config = CONFIGS["opt"]
    recipe = {"family": "huggingface", "arguments": {"config": config, "auto_class": auto_class}}
    options = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}
    snp.save(snp.prune(transformer("opt").bfloat16(), token_batches(12), **options), tmp_path, recipe)
    assert {weight.dtype for weight in snp.load(tmp_path).parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in ExportFolder(tmp_path).network("pruned").parameters()} == {torch.float32}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the option that names another."""
    pruned_digits(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ending:
        main([str(tmp_path), "--out", str(tmp_path / "file" / "x")])
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert re.match(r"error: --out=\S+/file/x cannot be written to: .*; give another folder$", said.strip())


def pruned_digits(folder: Path) -> None:
    """A folder of a tiny network for the digits, as a run leaves it: with a note of its samples."""
    recipe = {"family": "cifar_resnet", "arguments": {"depth": 20, "num_classes": 10, "image_size": 8}}
    model = models.build(**recipe).eval()
    options = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}
    snp.save(snp.prune(model, [torch.randn(8, 3, 8, 8)], **options), folder, recipe)
    write_weights(model, folder / "dense-1f.safetensors")
    settings = {"_target_": "snp.data.digits.Digits", "batch_size": 8, "num_workers": 0, "image_size": 8}
    (folder / "data.json").write_text(json.dumps({"settings": settings, "format": FORM, "seed": 0}))
    (folder / "metrics.json").write_text(json.dumps({"cache/dense": "dense-1f.safetensors"}))


FORM = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_fraction": 1.0}


def test_folder_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's folder becomes ONNX, a program, and int8; dense, pruned and int8 are scored and timed side by side."""
    pruned_digits(tmp_path)
    main([str(tmp_path), "--int8", "--samples", "16", "--test-samples", "20"])
    digits = Digits(batch_size=8, image_size=8)
    digits.configure(**FORM)
    images = next(iter(digits.calibration_dataloader(16, 0)))[0]
    with torch.no_grad():
        wanted = snp.load(tmp_path)(images)
    assert largest_difference(session_of(tmp_path / "export" / "model.onnx")(images), wanted) <= TOLERANCE
    assert largest_difference(session_of(tmp_path / "export" / "model.int8.onnx")(images), wanted) < 0.2
    assert (tmp_path / "export" / "model.pt2").is_file()
    found = {row["name"]: row for row in json.loads((tmp_path / "export" / "scores.json").read_text())}
    assert list(found) == ["dense", "pruned", "int8"]
    for name, model in (("pruned", snp.load(tmp_path)), ("dense", dense_of(tmp_path))):
        assert found[name]["accuracy"] == pytest.approx(accuracy(model, digits, 20), abs=1e-4)
    assert found["dense"]["share"] is None
    assert all(low <= median <= high for median, low, high in (found[name]["share"] for name in ("pruned", "int8")))
    assert found["int8"]["bytes"] < found["pruned"]["bytes"] < found["dense"]["bytes"]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("dense", "int8", "top-1 %", "in turns"))
    assert printed.startswith("Weights: pruned; there are no other weights\n")
    main([str(tmp_path), "--test-samples", "0"])
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"model.pt2", "model.onnx", "scores.json"}
    assert "model.int8.onnx: removed; it was of an earlier export" in capsys.readouterr().out


def test_paths_of_a_run_start_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export from another directory finds what the run called by a relative path, unless that leads somewhere."""
    for start, shade in (("there", 255), ("here", 0)):
        for number in range(8):
            folder = tmp_path / start / "pictures" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade,) * 3).save(folder / f"{number}.png")
    run = tmp_path / "run"
    pruned_digits(run)
    settings = {"_target_": "snp.data.image_folder.ImageFolder", "root": "pictures", "batch_size": 4, "image_size": 8}
    (run / "data.json").write_text(json.dumps({"settings": settings, "format": FORM, "seed": 0}))
    (run / "run.json").write_text(json.dumps({"directory": str(tmp_path / "there")}))
    for start, value in (("", 1.0), ("there", 1.0), ("here", -1.0)):
        monkeypatch.chdir(tmp_path / start)
        data = ExportFolder(run).data()
        assert data is not None
        data.setup("test")
        assert data.test_set[0][0].unique().tolist() == [value]


def test_another_checkpoint_under_the_same_name_is_not_what_was_pruned(tmp_path: Path) -> None:
    """It may hold other weights, or another network; where nobody noted which they were, what fits is taken."""
    pruned_digits(tmp_path)
    (tmp_path / "metrics.json").unlink()
    given, folder = tmp_path / "best.safetensors", ExportFolder(tmp_path)

    def found(given_weights: str | None) -> tuple[bool, str]:
        facts = {"config": {"model": {"checkpoint": str(given)}}, "given_weights": given_weights}
        (tmp_path / "run.json").write_text(json.dumps(facts))
        dense = dense_network(folder)
        assert dense is not None
        return dense.has_weights, dense.doubt

    given.write_bytes((tmp_path / "dense-1f.safetensors").read_bytes())
    noted = state_hash(dense_of(tmp_path))
    assert found(noted) == found(None) == (True, "")
    write_weights(models.build("cifar_resnet", depth=20, num_classes=10, image_size=8), given)
    assert found(None) == (True, "")
    said = f"The dense network was not scored: model.checkpoint={given} is not what it was when the run was made"
    assert found(noted) == (False, f"{said}.")
    write_weights(nn.Linear(2, 2), given)
    assert not found(None)[0]
    assert found(None)[1].startswith(f"{said} (")
    given.unlink()
    assert found(noted) == (False, "")


@pytest.mark.rehearsal
def test_language_models_read_texts_of_any_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logits as the network's own at other batches and lengths; the dense one beside it, scored by the perplexity."""
    auto_class, config = CONFIGS["opt"]
    model = transformer("opt")
    options = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}
    recipe = {"family": "huggingface", "arguments": {"config": config, "auto_class": auto_class}}
    snp.save(snp.prune(model, token_batches(12), **options), tmp_path, recipe)
    save_folder(tmp_path / "dense")
    (tmp_path / "text.txt").write_text(sentences(40))
    settings = {"_target_": "snp.data.text.TextData", "train": str(tmp_path / "text.txt"), "context": 12}
    settings |= {"test": settings["train"], "batch_size": 3}
    form = {"tokenizer": str(tmp_path / "dense"), "context": 32}
    (tmp_path / "data.json").write_text(json.dumps({"settings": settings, "format": form, "seed": 0}))
    (tmp_path / "run.json").write_text(json.dumps({"config": {"model": {"checkpoint": str(tmp_path / "dense")}}}))
    main([str(tmp_path), "--test-samples", "4"])
    small, session = snp.load(tmp_path).eval(), session_of(tmp_path / "export" / "model.onnx")
    for shape in ((4, 32), (1, 7), (5, 16)):
        tokens = torch.randint(32, shape)
        with torch.no_grad():
            wanted = small(input_ids=tokens).logits
        assert largest_difference(session(tokens), wanted) <= TOLERANCE
        assert small(input_ids=tokens, labels=tokens).loss > 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "export" / "scores.json").read_text())}
    data = ExportFolder(tmp_path).data()
    assert data is not None
    windows = [data.test_set[index] for index in range(4)] if data.setup("test") is None else []
    for name, network in (("dense", model), ("pruned", small)):
        with torch.no_grad():
            losses = torch.stack(
                [torch.nn.functional.cross_entropy(network(t[None]).logits[0, :-1], t[1:]) for t, _ in windows]
            )
        assert rows[name]["perplexity"] == pytest.approx(float(losses.mean().exp()), rel=1e-4)
    assert "perplexity" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--int8"])
    assert "--int8 is for networks that read images" in capsys.readouterr().err


def dense_of(folder: Path) -> nn.Module:
    model = models.build("cifar_resnet", depth=20, num_classes=10, image_size=8).eval()
    read_weights(model, folder / "dense-1f.safetensors")
    return model


def accuracy(model: nn.Module, digits: Digits, most: int) -> float:
    images, labels = (torch.cat(parts)[:most] for parts in zip(*digits.test_dataloader(), strict=True))
    with torch.no_grad():
        return 100 * float((model(images).argmax(-1) == labels).double().mean())


def test_folders_of_save_know_their_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No shape need be given; without samples there are times and no accuracy, and no int8."""
    model = timm.create_model("resnet10t", num_classes=7).eval()
    options = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}
    snp.save(snp.prune(model, [torch.randn(4, 3, 32, 32)], **options), tmp_path)
    main([str(tmp_path)])
    assert "Accuracy was not measured." in capsys.readouterr().out
    graph = onnx.load(tmp_path / "export" / "model.onnx").graph
    for value in (graph.input[0], graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--int8"])
    assert "--int8 needs the samples of the run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--input-shape", "3,x"])
    assert "--input-shape must be numbers" in capsys.readouterr().err


@pytest.mark.parametrize(("tuned", "weights"), [(70.0, "pruned"), (90.0, "finetuned")])
def test_the_better_weights_are_exported(tmp_path: Path, tuned: float, weights: str) -> None:
    """A fine-tuning that made it worse is left out unless asked for."""
    pruned_digits(tmp_path)
    (tmp_path / "finetuned.safetensors").write_bytes((tmp_path / "pruned.safetensors").read_bytes())
    metrics = {"pruned/acc1_percent": 80.0, "finetuned/acc1_percent": tuned}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    folder = ExportFolder(tmp_path)
    assert folder.weights(None).stage == weights
    assert (folder.weights("pruned").stage, folder.weights("finetuned").stage) == ("pruned", "finetuned")


def test_a_noisy_clock_is_said() -> None:
    """Quartiles far apart make the times meaningless; near ones do not."""
    quiet, noisy = Score("pruned", 1, None, 1.0, (0.5, 0.48, 0.53)), Score("int8", 1, None, 1.0, (0.1, 0.02, 3.0))
    assert not is_noisy([Score("dense", 1, None, 2.0, None), quiet])
    assert is_noisy([quiet, noisy])
    lines = table([quiet, noisy]).splitlines()
    assert lines[1].split() == ["pruned", "1", "-", "1", "50.0", "%", "(48.0", "%", "to", "53.0", "%)"]
    assert len({len(line) for line in lines}) == 1
