"""Which options decide what a run finds, and which only say where it works, how fast, and what it shows?

One list for the marks of stages and of what runs share, for the refusal of other settings in a folder with results,
and for the names of lines when runs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["Purpose", "deciding", "of_trainer", "trainer_facts"]

Purpose = Literal["weights", "moments", "dense", "plan", "pruned", "tuned", "finetuned"]

_SECTIONS = ("model", "data", "prune", "calibration", "dense", "finetune", "trainer", "seed")
# Another device or number of processes moves the last digits; what several processes train is told apart by their
# number, which options alone do not say. Callbacks of a trainer are the run's own.
_IDLE = {
    "data": {"num_workers"},
    "trainer": {
        "accelerator", "devices", "num_nodes", "strategy", "plugins", "sync_batchnorm", "use_distributed_sampler",
        "benchmark", "deterministic", "inference_mode", "detect_anomaly", "num_sanity_val_steps", "profiler",
        "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "enable_autolog_hparams", "barebones",
        "log_every_n_steps", "logger", "callbacks", "default_root_dir", "model_registry",
    },
}  # fmt: skip
# What the trainer does where an option is not given.
_PLAIN: dict[str, Any] = {
    "precision": "32-true", "accumulate_grad_batches": 1, "gradient_clip_val": None, "gradient_clip_algorithm": None,
    "limit_train_batches": None, "limit_val_batches": None, "limit_test_batches": None, "limit_predict_batches": None,
    "overfit_batches": None, "fast_dev_run": None, "check_val_every_n_epoch": 1, "val_check_interval": None,
    "max_steps": -1, "min_steps": None, "max_epochs": None, "min_epochs": None, "max_time": None,
}  # fmt: skip
_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_TRAINING: tuple[Purpose, ...] = ("weights", "finetuned")
_SCORES: tuple[Purpose, ...] = ("dense", "pruned", "tuned", "finetuned")
_MOMENTS: tuple[Purpose, ...] = ("moments", "plan", "pruned")
# A dense network that several processes trained is the given one for all runs that find it, as a plan is.
_PURPOSES: dict[str, tuple[Purpose, ...]] = {
    "limit_test_batches": _SCORES,
    "limit_val_batches": (*_TRAINING, *_SCORES),
    "limit_predict_batches": _MOMENTS,
    "fast_dev_run": (*_TRAINING, *_SCORES, *_MOMENTS),
    "overfit_batches": (*_TRAINING, *_SCORES, *_MOMENTS),
    "processes": ("finetuned",),
    "sync_batchnorm": ("finetuned",),
}


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names of the options that results depend on -> their values, in order.

    Args:
        config: all options of a run as plain values.
    """
    found: dict[str, Any] = {}
    for section in _SECTIONS:
        options = config.get(section)
        if isinstance(options, Mapping):
            idle: set[str] = _IDLE.get(section, set())
            given = of_trainer(options) if section == "trainer" else options
            flat = _flat(given, section)  # a data set of another package has its own arguments inside
            found |= {name: value for name, value in flat.items() if idle.isdisjoint(name.split(".")[1:])}
        elif section in config:
            found[section] = options
    return found


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {full: entry for key, inner in value.items() for full, entry in _flat(inner, f"{name}.{key}").items()}


def of_trainer(options: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's options that decide, with those that were not given, each in one spelling."""
    given = {name: value for name, value in options.items() if name not in _IDLE["trainer"] and name[:1] != "_"}
    return _PLAIN | {name: _spelt(name, value) for name, value in given.items()}


def _spelt(name: str, value: Any) -> Any:
    """Nothing, no and all of the batches are the same as the option left out."""
    is_all = isinstance(value, float) and value == (0.0 if name == "overfit_batches" else 1.0)
    if value is None or value is False or (is_all and name != "gradient_clip_val"):
        return _PLAIN.get(name)
    return _PRECISIONS.get(str(value), value) if name == "precision" else value


def trainer_facts(options: Mapping[str, Any], purpose: Purpose) -> tuple[tuple[str, Any], ...]:
    """Which of a trainer's options bear on a purpose, and are not as they would be without it, as pairs.

    Args:
        options: as the trainer gets them; `processes` and `sync_batchnorm` are added where there are several.
        purpose: a stage of the run, or the dense network's weights or moments as runs share them.
    """
    added = {name: options[name] for name in ("processes", "sync_batchnorm") if options.get("processes", 1) > 1}
    told = of_trainer({name: value for name, value in options.items() if name != "processes"}) | added
    return tuple(
        (name, value)
        for name, value in sorted(told.items())
        if value != _PLAIN.get(name) and purpose in _PURPOSES.get(name, _TRAINING)
    )
