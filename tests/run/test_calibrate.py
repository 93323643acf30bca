"""Are the moments of a run those of its samples, and are they found again on disk only by those they belong to?"""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snp.core.gram import Moments
from snp.measure.readers import Reader
from snp.run.calibrate import CalibrationCallback, CalibrationSettings, ForwardPass, read_moments, write_moments

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data

READERS = {"1.weight": Reader("1.weight", "1", -1, 5)}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).eval()


def measured(model: nn.Module, samples: torch.Tensor, callback: CalibrationCallback, batch_size: int = 4) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    labels = torch.zeros(len(samples))
    loader = DataLoader(TensorDataset(samples, labels), batch_size=batch_size)
    trainer.predict(ForwardPass(model), loader, return_predictions=False)


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_moments_are_those_of_the_inputs(batch_size: int, generator: torch.Generator) -> None:
    """However the samples are divided into batches, the sums are those over all inputs of the reader."""
    model, samples = network(), torch.randn(11, 3, generator=generator)
    callback = CalibrationCallback(READERS, CalibrationSettings())
    measured(model, samples, callback, batch_size)
    inputs = model[0](samples).detach().double()  # type: ignore[index]
    found = callback.moments["1.weight"]
    torch.testing.assert_close(found.second, inputs.T @ inputs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.first, inputs.sum(dim=0), rtol=1e-6, atol=1e-6)
    assert (found.count, callback.samples) == (11, 11)
    assert found.second.dtype == torch.float64
    assert callback.seconds > 0


def test_float32_products_are_a_choice(generator: torch.Generator) -> None:
    """Products in float32 come close and are not the same; sums stay float64."""
    model, samples = network(), torch.randn(64, 3, generator=generator)
    callbacks = [CalibrationCallback(READERS, CalibrationSettings(products=name)) for name in ("float64", "float32")]
    for callback in callbacks:
        measured(model, samples, callback)
    exact, fast = (callback.moments["1.weight"].second for callback in callbacks)
    assert fast.dtype == torch.float64
    assert not torch.equal(exact, fast)
    torch.testing.assert_close(exact, fast, rtol=1e-5, atol=1e-5)


def test_a_second_pass_starts_anew(generator: torch.Generator) -> None:
    """A callback that is used again forgets what it saw before, and no hooks stay."""
    model, callback = network(), CalibrationCallback(READERS, CalibrationSettings())
    measured(model, torch.randn(6, 3, generator=generator), callback)
    measured(model, torch.randn(5, 3, generator=generator), callback)
    assert (callback.moments["1.weight"].count, callback.samples) == (5, 5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_not_finite_activations_name_the_layer(generator: torch.Generator) -> None:
    """NaN ends the pass with the layer's name, and leaves no hooks behind."""
    model = network()
    samples = torch.randn(6, 3, generator=generator)
    samples[5, 0] = float("nan")
    with pytest.raises(ValueError, match="layer 1"):
        measured(model, samples, CalibrationCallback(READERS, CalibrationSettings()))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, r"calibration\.samples"),
        ({"samples": 2.5}, r"calibration\.samples"),
        ({"samples": True}, r"calibration\.samples"),
        ({"products": "float16"}, r"calibration\.products"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    """Mistakes are named as on the command line."""
    with pytest.raises(ValueError, match=message):
        CalibrationSettings(**arguments)  # type: ignore[arg-type]


def some_moments(generator: torch.Generator) -> dict[str, Moments]:
    return {name: Moments.of(torch.randn(7, 4, generator=generator)) for name in ("a.weight", "b.0.weight")}


def test_moments_come_back_from_disk(tmp_path: Path, generator: torch.Generator) -> None:
    """Moments are read as they were written, bit by bit, with what was noted beside them."""
    moments = some_moments(generator)
    write_moments(moments, tmp_path / "moments.safetensors", {"fingerprint": "f", "samples": "7"})
    found = read_moments(tmp_path / "moments.safetensors", "f")
    assert found is not None
    assert found[0].keys() == moments.keys()
    for name, entry in moments.items():
        assert torch.equal(found[0][name].second, entry.second)
        assert torch.equal(found[0][name].first, entry.first)
        assert found[0][name].count == 7
    assert found[1]["samples"] == "7"


def test_moments_of_other_facts_are_not_read(tmp_path: Path, generator: torch.Generator) -> None:
    """Another fingerprint, a damaged file and no file are all no moments."""
    path = tmp_path / "moments.safetensors"
    assert read_moments(path, "f") is None
    write_moments(some_moments(generator), path, {"fingerprint": "f"})
    assert read_moments(path, "g") is None
    path.write_bytes(path.read_bytes()[:20])
    assert read_moments(path, "f") is None
