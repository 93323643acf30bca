"""What can be chosen at the command line, and what does it mean?  As the files of ``conf/`` and their comments say."""

from __future__ import annotations

from pathlib import Path

import snp

__all__ = ["configuration", "help_text"]

_FLAGS = """\
  --cfg job --resolve   print all options as composed, and stop
  -m, --multirun        every combination of options that list several values: {program} -m seed=0,1,2
  --hydra-help          flags of Hydra, and how shells complete options
  prune.dry_run=true    list what could be cut, and stop"""


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


def help_text(program: str) -> str:
    """What ``--help`` prints: choices with the sentence each opens with, and all options with their meaning.

    Args:
        program: how the command is called.
    """
    folder = configuration()
    parts = [
        "Removes whole units from a trained network and folds what they did into the weights that stay.\n",
        f"usage: {program} [GROUP=CHOICE ...] [OPTION=VALUE ...] [FLAG ...]\n",
        "Flags:",
        _FLAGS.format(program=program),
    ]
    for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "hydra"):
        parts += ["", f"{group.name}="]
        parts += [f"  {path.stem:<20} {_sentence(path)}" for path in sorted(group.glob("*.yaml"))]
    return "\n".join([*parts, "", "Options and their defaults:", "", _options(folder / "config.yaml")])


def _sentence(path: Path) -> str:
    """The first comment of a file: what it is for."""
    comments = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def _options(path: Path) -> str:
    """The options that users set, as the file writes them: without constructors and the lines for Hydra."""
    shown = []
    for line in path.read_text().splitlines():
        if line.startswith("hydra:"):
            break
        if not line.strip().startswith(("_target_", "_convert_", "_partial_", "_self_")):
            shown.append(line)
    return "\n".join(shown).rstrip()
