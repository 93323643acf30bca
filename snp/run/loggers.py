"""Where do a run's numbers go, and what do the libraries print meanwhile?

Only this module and `snp.run.tracking` know Weights & Biases. A W&B run without an account is written to the run
folder and can be uploaded later with `wandb sync`; no account, key or network is ever needed.
"""

import logging
import netrc
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from snp.run.hidden import without_secrets
from snp.run.training.history import TrainingTable

MODES = ("auto", "online", "offline", "disabled")
# What W&B itself accepts in the WANDB_MODE variable, and what it means here.
_ENVIRONMENT_MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
# Hints on small data sets, on forward passes run for their hooks, and a deprecated call inside Lightning.
_HARMLESS_WARNINGS = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*predict returned None.*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged was gathered before
    ".*Checkpoint directory .* exists and is not empty.*",  # a training that goes on
    r".*isinstance\(treespec, LeafSpec\).*",
    ".*Total length of `list` across ranks is zero.*",  # nothing is set apart for validation
    # Scores are the same on all processes before they are logged.
    ".*recommended to use .self.log.*sync_dist=True.*",
)


def build_loggers(
    csv: bool,
    wandb: str,
    project: str,
    group: str | None,
    tags: Sequence[str],
    run_dir: str | Path,
    config: dict[str, Any],
    job_type: str = "prune",
) -> list[Logger]:
    """Return the Lightning loggers of one run.

    Args:
        csv: Whether to write `training/version_0/metrics.csv` under the run folder.
        wandb: "auto" (online with a key, else offline), "online", "offline" or "disabled". The environment variable
            WANDB_MODE wins over the first three; a run that does not use W&B stays without it.
        project: W&B project name.
        group: W&B group that collects related runs, or None.
        tags: W&B tags.
        run_dir: The run folder; created when missing.
        config: Plain nested settings to show beside the W&B run; what looks like a secret is hidden there.
        job_type: W&B job type, by which runs of a group are told apart.

    Returns:
        Zero, one or two loggers, for `Trainer(logger=...)`.

    Raises:
        ValueError: A mode is unknown, online was asked for without a key, or `project` is empty.
    """
    folder = Path(run_dir)
    loggers: list[Logger] = [TrainingTable(folder)] if csv else []
    mode = resolve_mode(wandb)
    if mode != "disabled":
        if not project:
            raise ValueError("logger.project must be a W&B project name, found an empty one.")
        named = {"project": project, "group": group, "job_type": job_type, "tags": list(tags), "name": folder.name}
        loggers.append(_wandb_logger(folder, mode, without_secrets(config), named))
    return loggers


def _wandb_logger(folder: Path, mode: str, config: dict[str, Any], named: dict[str, Any]) -> WandbLogger:
    folder.mkdir(parents=True, exist_ok=True)
    # `mode` instead of Lightning's `offline`: the latter writes WANDB_MODE into this process for good.
    run = WandbLogger(save_dir=folder, config=config, mode=mode, **named)
    # Lightning always passes this deprecated setting on, and W&B then warns the user, who cannot change it.
    run._wandb_init.pop("anonymous", None)
    return run


def resolve_mode(wandb: str) -> str:
    """Return "online", "offline" or "disabled" for a `logger.wandb` setting.

    Args:
        wandb: The setting, one of `MODES`; WANDB_MODE in the environment wins over all but "disabled".

    Raises:
        ValueError: The setting or WANDB_MODE is unknown, or online was asked for without a key.
    """
    if wandb not in MODES:
        raise ValueError(f"logger.wandb must be one of {', '.join(MODES)}, found {wandb!r}.")
    from_environment = os.environ.get("WANDB_MODE")
    if from_environment and wandb != "disabled":
        if from_environment not in _ENVIRONMENT_MODES:
            choices = ", ".join(_ENVIRONMENT_MODES)
            raise ValueError(f"WANDB_MODE in the environment must be one of {choices}, found {from_environment!r}.")
        return _ENVIRONMENT_MODES[from_environment]
    if wandb == "auto":
        if _has_key():
            return "online"
        _say("W&B: no API key found, so this run is recorded offline; upload it later with `wandb sync`.")
        return "offline"
    if wandb == "online" and not _has_key():
        raise ValueError("logger.wandb=online needs an API key: run `wandb login`, set WANDB_API_KEY, or use offline.")
    return wandb


def _has_key() -> bool:
    """Whether W&B would find a key without asking: WANDB_API_KEY, or the netrc entry of its server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates):
        try:
            return netrc.netrc(path).hosts.get(host) is not None
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError):
            return False
    return False


@rank_zero_only
def _say(sentence: str) -> None:
    print(sentence, flush=True)


@rank_zero_only
def close_loggers(loggers: Sequence[Logger], *, has_failed: bool = False) -> None:
    """Finish the W&B run, so that the next run in this process gets its own; one that failed may not have begun."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and not (has_failed and logger._experiment is None):
            logger.experiment.finish(exit_code=int(has_failed))


def quiet_libraries() -> None:
    """Silence what the user can do nothing about: advertisements, device listings and hints on tiny data sets.

    Errors and all other warnings still come through.
    """
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
