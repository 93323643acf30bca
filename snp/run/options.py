"""What can be chosen at the command line?  What the files of ``conf/`` know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import snp
from snp.core.registry import close_to

__all__ = ["asked_name", "configuration", "objective", "opened", "question", "refuse_unknown", "sentence"]

_SCORES = ("acc1_percent", "perplexity")


# Flags of Hydra behind which a word stands.
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
               "--experimental-rerun", "--info", "-i")  # fmt: skip


def configuration() -> Path:
    """The folder of ``config.yaml``: beside the package in a checkout, inside it once installed.

    Raises:
        ValueError: it is nowhere, so the package was not installed whole.
    """
    package = Path(str(snp.__file__)).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ValueError(f"the files of conf/ are missing beside {package}: install snp again")


def refuse_unknown(words: Sequence[str]) -> None:
    """Options that no file of ``conf/`` knows, before Hydra says so in words of its own.

    Args:
        words: of the command line; flags, additions (``+x=1``) and removals (``~x``) are left to Hydra. Files in the
            folders of ``--config-dir`` and ``hydra.searchpath`` are known, too.

    Raises:
        ValueError: the message names the nearest option.
    """
    folders = [configuration(), *_own_folders(words)]
    sections, groups = _known(folders)
    is_all_known = all(folder.is_dir() for folder in folders)
    for before, word in pairwise(["", *words]):
        if re.fullmatch(r"[A-Za-z]\w*", word) and before not in _WITH_VALUE and word not in sections:
            raise ValueError(f"{word} is no option: write NAME=VALUE{close_to(word, [*sections])}")
        name, is_override, value = word.partition("=")
        section, _, key = name.partition(".")
        if not is_override and section in sections and re.fullmatch(r"[a-z_][\w.]*", name):
            raise ValueError(f"{name} has no value: write {name}=VALUE, without a space")
        if not is_override or not re.fullmatch(r"[a-z_][\w.]*", name) or section == "hydra":
            continue
        if section not in sections:
            options = [f"{part}.{entry}" for part, entries in sections.items() for entry in entries]
            raise ValueError(f"there is no option {name}{close_to(name, [*sections, *options])}")
        if section in groups and not is_all_known:
            continue
        if section in groups and not key:
            _refuse_choice(section, value, folders)
        first = key.partition(".")[0]
        # Below an option lie the user's own names: model.arguments.depth.
        if key and first not in sections[section]:
            hint = close_to(first, sorted(sections[section]), f"{section}.")
            raise ValueError(f"there is no option {section}.{first}{hint}{_chosen_by(section, groups)}")


def _own_folders(words: Sequence[str]) -> list[Path]:
    """Places of the user's own files for the groups of ``conf/``: folders, or what only Hydra finds (``pkg://``)."""
    asked = [word for before, word in pairwise(["", *words]) if before in ("--config-dir", "-cd")]
    asked += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    for word in (word for word in words if word.startswith("hydra.searchpath=")):
        parts = word.partition("=")[2].strip("[]").split(",")
        asked += [part.strip(" '\"").removeprefix("file://") for part in parts]
    return [Path(folder) for folder in asked if folder]


def _refuse_choice(group: str, value: str, folders: Sequence[Path]) -> None:
    """A choice of a group that has no file; what is no plain name, as a function of Hydra, is left to it."""
    known = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    for choice in value.split(","):
        if choice in ("", "null"):
            raise ValueError(f"{group}={choice} chooses nothing: leave it out, or choose among {', '.join(known)}")
        if re.fullmatch(r"[A-Za-z]\w*", choice) and choice not in known:
            raise ValueError(f"there is no {group}={choice}; choices are {', '.join(known)}{close_to(choice, known)}")


def _known(folders: Sequence[Path]) -> tuple[dict[str, set[str]], list[str]]:
    """Every option or group -> the options in it by any file of the folders, ours first, and the groups' names."""
    folder = folders[0]
    plain: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    sections = {name: set(value) if isinstance(value, dict) else set[str]() for name, value in plain.items()}
    groups = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for group in groups:
        found: set[str] = set()
        for path in (path for each in folders for path in (each / group).glob("*.yaml")):
            own = _plain(path)
            found |= set(own.get(group) or own)  # a file for the whole configuration names its group
        sections[group] = found
    return sections, groups


def _plain(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where Hydra will say what is wrong with it."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _chosen_by(section: str, groups: Sequence[str]) -> str:
    return f" (conf/{section}/*.yaml list those of each {section}; +{section}.NAME=... adds one)" * (section in groups)


def opened(word: str) -> str:
    """An override as Hydra takes it: below ``model.arguments`` and ``data.arguments`` lie names that no file knows."""
    return f"++{word}" if re.match(r"(model|data)\.arguments\b[^=]*=", word) else word


def asked_name(override_dirname: str, words: Sequence[str]) -> str:
    """Name of a run's folder in a sweep: the options in which it differs from the other runs.

    Args:
        override_dirname: all overrides of the run, as Hydra joins them.
        words: of the command line; what stands there as it is, is the same for all runs.
    """
    parts = re.split(r",(?=[\w./@+~]+=)", override_dirname)
    given = {word.lower() for word in words}  # Hydra writes True for true
    own = [part.removeprefix("++").removeprefix("prune.") for part in parts if part and part.lower() not in given]
    return re.sub(r"[^\w.=,+-]", "-", ",".join(own))[:120]


def question(experiment: str) -> str:
    """What an experiment asks: the first sentence of its file, empty where there is no such file."""
    path = configuration() / "experiment" / f"{experiment}.yaml"
    return sentence(path).partition("  ")[0] if path.is_file() else ""


def objective(metrics: Mapping[str, Any], names: Sequence[str] | None) -> Any:
    """What a sweeper optimises.

    Args:
        metrics: of a finished run.
        names: of the numbers wanted; None for the last stage's score on the validation samples.

    Returns:
        A number, or a tuple of several.

    Raises:
        ValueError: a run has no such number.
    """
    if names is None:
        scores = [
            f"{stage}/{part}{score}"
            for part in ("val_", "")
            for stage in ("finetuned", "tuned", "pruned")
            for score in _SCORES
        ]
        return next((metrics[name] for name in scores if metrics.get(name) is not None), None)
    for name in names:
        if metrics.get(name) is None:
            raise ValueError(f"optimise: the run has no number {name}{close_to(name, list(metrics))}")
    found = tuple(metrics[name] for name in names)
    return found[0] if len(found) == 1 else found


def sentence(path: Path) -> str:
    """The first comment of a file: what it is for."""
    comments = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")
