"""Does every command that README and docs print work, as it is printed?

Bars, loggers and precision are those that ship. `pytest -m rehearsal` runs the commands, as a step of `.ci/run`; that
every command is among them is checked by the default suite.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, TINY, environment, run_here
from tests.rehearsal.documents import Documented, documented
from tests.rehearsal.manners import MANNERS, Manner
from tests.rehearsal.material import copy_of_the_repository, material
from tests.rehearsal.terminal import on_a_terminal

_LONGEST_S = 1800  # of a command, on a machine that is slow and has other work


def manner_of(command: str) -> Manner | None:
    """How a command is rehearsed, None where nobody has said."""
    return next((manner for pattern, manner in MANNERS.items() if re.fullmatch(pattern, command)), None)


def asked(how: str) -> list[Documented]:
    """The documented commands that are rehearsed in one way."""
    return [one for one in documented() if (manner := manner_of(one.text)) is not None and manner.how == how]


def test_every_documented_command_is_rehearsed() -> None:
    """A new command on a page needs a line in manners.py, and a line there needs a command."""
    commands = documented()
    assert len(commands) > 40
    assert [str(one) for one in commands if manner_of(one.text) is None] == []
    needed = {next(p for p in MANNERS if re.fullmatch(p, one.text)) for one in commands}
    assert set(MANNERS) - needed == set()
    for manner in MANNERS.values():
        assert bool(manner.reason) == (manner.how != "run"), manner


def test_no_name_of_the_page_is_left_in_a_command_that_runs() -> None:
    """FOLDER, PATH and FILE stand for what a reader has: a rehearsal puts its material there."""
    left = []
    for one in asked("run"):
        manner = manner_of(one.text)
        assert manner is not None
        if re.search(r"\b(FOLDER|PATH|FILE|RUN|RUN_DIR|NAME)\b", _replaced(one.text, manner)):
            left.append(str(one))
    assert left == []


def _replaced(command: str, manner: Manner) -> str:
    for name, value in manner.words.items():
        command = command.replace(name, value)
    return command


class Workplace:
    """A copy of the repository, and what commands work on."""

    def __init__(self, home: Path) -> None:
        self.copy = copy_of_the_repository(home)
        (home / "material").mkdir()
        self.material = material(home / "material") | {"run": str(self.copy / "finished")}

    def words(self, command: str, manner: Manner) -> list[str]:
        """The command as it is started: this Python, and small data in place of the page's names."""
        words = shlex.split(f"{_replaced(command, manner)} {manner.more}".format(**self.material))
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        if words[0] == "torchrun":
            return [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        if words[0] == "snp":
            return [sys.executable, "-m", "snp", *words[1:]]
        return words

    def start(self, words: list[str]) -> tuple[int, str]:
        """Run a command in the copy, on a terminal, as a new user without account, key or network."""
        variables = {**environment(self.copy), "PYTHONPATH": str(self.copy)}
        return on_a_terminal(words, self.copy, variables, _LONGEST_S)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("rehearsal"))


@pytest.fixture(scope="session")
def finished(workplace: Workplace) -> None:
    """A finished run, for commands that need one."""
    status, printed = workplace.start([sys.executable, "run.py", *TINY, "logger=none", "hydra.run.dir=finished"])
    assert status == 0, printed


@pytest.mark.rehearsal
@pytest.mark.timeout(_LONGEST_S + 100)
@pytest.mark.parametrize("command", asked("run"), ids=str)
def test_command(command: Documented, workplace: Workplace, request: pytest.FixtureRequest) -> None:
    """It ends well and says what it should."""
    manner = manner_of(command.text)
    assert manner is not None
    if "{run}" in str(manner.words):
        request.getfixturevalue("finished")
    status, printed = workplace.start(workplace.words(command.text, manner))
    assert status == 0, printed[-6000:]
    assert manner.prints in printed, printed[-6000:]
    assert "Traceback" not in printed
    if manner.prints == "Run folder: " and "dry_run" not in command.text:
        assert "Testing" in printed, "a run on a terminal shows its progress bars"


@pytest.mark.parametrize("command", asked("compose"), ids=str)
def test_options(command: Documented, tmp_path: Path) -> None:
    """The options of a run for other machines exist, and their values have the right types."""
    options = [word for word in shlex.split(command.text) if "=" in word and not word.startswith("--")]
    ended = run_here(*options, "--cfg", "job", "--resolve", folder=tmp_path, tiny=False)
    assert ended.status == 0, ended.stderr
    assert "_target_: snp.run.pipeline.run" in ended.stdout


@pytest.mark.parametrize("script", sorted({shlex.split(one.text)[1] for one in asked("describe")}))
def test_flags(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag that a page gives to a benchmark is one of those that its help lists."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend((ROOT / script).parent)  # as Python does
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for command in (one for one in asked("describe") if shlex.split(one.text)[1] == script):
        flags = [word for word in shlex.split(command.text) if word.startswith("--")]
        assert [flag for flag in flags if not re.search(rf"{flag}\b", said)] == [], command


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("    python run.py a=b   # what for", ["python run.py a=b"]),
        ("see `python run.py x=1` and `x=1`", ["python run.py x=1"]),
        ("```\npip install a && python run.py\n```", ["pip install a", "python run.py"]),
        ("```python\npython run.py\n```", []),
        ("```bash\nsrun python run.py a=1 \\\n    b=2\n```", ["srun python run.py a=1 b=2"]),
        ("`full_size.py --samples 2`", ["python benchmarks/full_size.py --samples 2"]),
        ("    command:  python benchmarks/a.py --x 1   (the rows of 1)", ["python benchmarks/a.py --x 1"]),
        ("python is a language; a.py -- too", []),
    ],
)
def test_commands_are_found(page: str, commands: list[str], tmp_path: Path) -> None:
    """In blocks, indented or fenced, and in the text; without remarks."""
    from tests.rehearsal.documents import commands_of

    path = tmp_path / "page.md"
    path.write_text(page + os.linesep)
    assert [text for _, text in commands_of(path)] == commands
