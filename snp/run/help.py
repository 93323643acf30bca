"""What does ``--help`` print?  Choices, and options with their meaning, as the comments in ``conf/`` say it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from snp.run.options import configuration, sentence

__all__ = ["GroupOption", "group_options", "help_text", "inspect_text"]

_FLAGS = """\
  --cfg job --resolve   print all options as composed, and stop
  -m, --multirun        every combination of options that list several values: {program} -m seed=0,1,2
  --hydra-help          flags of Hydra, and how shells complete options
  prune.dry_run=true    list what could be cut, and stop"""
_LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+): ?(?P<value>[^#\n]*?) *(?:# (?P<meaning>.*))?$")
_BASE = re.compile(r"^defaults: \[(\w+), _self_\]")
_SELECTING = ("prune", "ignore", "structures", "attention", "streams")


@dataclass(frozen=True)
class GroupOption:
    """An option of a group, as all choices that mean the same by it have it.

    Attributes:
        name: with the group in front.
        value: its default; dots where that differs.
        meaning: a phrase; empty where no file says it.
        choices: that have it.
        others: that do not.
    """

    name: str
    value: str
    meaning: str
    choices: tuple[str, ...]
    others: tuple[str, ...]

    def __str__(self) -> str:
        """A line of the help."""
        few = f"not {', '.join(self.others)}" if len(self.others) < len(self.choices) else ", ".join(self.choices)
        return f"  {f'{self.name}={self.value}':<36} # {self.meaning}{f' ({few})' if self.others else ''}"


def help_text(program: str) -> str:
    """What ``--help`` of a run prints: choices with the sentence each opens with, and all options with their meaning.

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
    for group in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "hydra"):
        parts += _group(group)
    return "\n".join([*parts, "", "Options and their defaults:", "", *_options(folder / "config.yaml")])


def inspect_text() -> str:
    """What ``snp inspect --help`` prints: its two uses, which network is looked at, and what may be cut."""
    return "\n".join(
        [
            "Lists what could be cut in a network and why other units stay, or what was cut. Nothing is trained.\n",
            "usage: snp inspect FOLDER                               the plan of a run folder, or of one of snp.save",
            "       snp inspect [GROUP=CHOICE ...] [OPTION=VALUE ...]   a network, by the words of snp run",
            *_group("model"),
            *_group("data"),
            "",
            "What may be cut:",
            "",
            *(line for line in _options(configuration() / "config.yaml") if _name(line) in _SELECTING),
            "",
            "The list also goes to hydra.run.dir=FOLDER, as groups.md and groups.json. snp run --help has all options.",
        ]
    )


def group_options(group: str) -> list[GroupOption]:
    """All options of a group by name; what two choices mean something else by, stands there twice."""
    files = {path.stem: _lines(path, group) for path in sorted((configuration() / group).glob("*.yaml"))}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for choice, lines in files.items():
        for name, (value, meaning) in lines.items():
            if not name.startswith("_"):
                found.setdefault((name, meaning or _meaning(name, lines, files.values())), {})[choice] = value
    return [
        GroupOption(
            f"{group}.{name}",
            next(iter(values.values())) if len({*values.values()}) == 1 else "...",
            meaning,
            tuple(values),
            tuple(choice for choice in files if choice not in values),
        )
        for (name, meaning), values in sorted(found.items())
    ]


def _meaning(name: str, lines: dict[str, tuple[str, str]], files: Collection[dict[str, tuple[str, str]]]) -> str:
    """What a file that says nothing of an option means by it: the same as another of its class, or as any other."""
    said = [other for other in files if other.get(name, ("", ""))[1]]
    alike = [other for other in said if other.get("_target_") == lines.get("_target_")]
    return (alike + said)[0][name][1] if said else ""


def _lines(path: Path, group: str) -> dict[str, tuple[str, str]]:
    """Option -> its value and its comment; of a file for the whole configuration those of the group."""
    text = path.read_text().splitlines()
    if "# @package _global_" in text:
        start = next((number for number, line in enumerate(text) if line == f"{group}:"), len(text))
        inside = text[start + 1 :]
        text = inside[: next((n for n, line in enumerate(inside) if line and line[0] != " "), len(inside))]
    base = next((match[1] for line in text if (match := _BASE.match(line))), None)
    inherited = _lines(path.with_stem(base), group) if base else {}
    found = [match for line in text if (match := _LINE.match(line))]
    least = min((len(match["indent"]) for match in found), default=0)
    top = (match for match in found if len(match["indent"]) == least and match["name"] != "defaults")
    return inherited | {match["name"]: (match["value"], match["meaning"] or "") for match in top}


def _group(group: str) -> Iterator[str]:
    """The choices of a group, and its options."""
    yield from ("", f"{group}=")
    yield from (f"  {path.stem:<20} {sentence(path)}" for path in sorted((configuration() / group).glob("*.yaml")))
    options = group_options(group) if group != "experiment" else []
    if options:
        yield from ("", "with the options, and their defaults (... differs by choice):")
        yield from map(str, options)


def _options(path: Path) -> Iterator[str]:
    """The options that users set, as the file writes them: without constructors and the lines for Hydra."""
    text = path.read_text().partition("\nhydra:")[0].rstrip()
    return (
        line
        for line in text.splitlines()
        if _name(line) not in ("_target_", "_convert_", "_partial_") and "_self_" not in line
    )


def _name(line: str) -> str:
    found = _LINE.match(line)
    return found["name"] if found else ""
