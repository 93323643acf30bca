"""What can be done from a shell?  ``snp run``, ``snp inspect``, ``snp export``, ``snp compare``; ``snp --help``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main"]

_HELP = """\
usage: snp COMMAND ...

  snp run [OPTION=VALUE ...]      prune a network: train it where it has no weights, calibrate, plan, cut, fine-tune
  snp inspect [OPTION=VALUE ...]  list what could be cut in a network, and why other units stay
  snp inspect FOLDER              what was cut: the plan of a run folder, or of a folder of snp.save
  snp export FOLDER [--int8]      write ONNX and torch.export files of a pruned network
"""
_COMPARE = "  snp compare RUN ... --out FILE  one page that sets runs side by side\n"


def main() -> None:
    """Run the command that the first word names."""
    command, words = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    compares = find_spec("snp.report.__main__") is not None
    if command == "run":
        from snp.run.command import run

        run(words, program="snp run")
    elif command == "inspect":
        _inspect(words)
    elif command == "export":
        from snp.export.__main__ import main as export

        export(words)
    elif command == "compare" and compares:
        from snp.report.__main__ import main as compare  # type: ignore[import-not-found,unused-ignore]

        compare(words)
    elif command in ("--help", "-h"):
        print(_HELP + (_COMPARE if compares else "") + "\nEach says more with --help.")
    else:
        print(f"error: there is no command {command!r}; snp --help lists them", file=sys.stderr)
        sys.exit(2)


def _inspect(words: list[str]) -> None:
    """A folder's plan, or a dry run of a configuration."""
    # The folders of a sweep's runs are called by the options that differ.
    if len(words) == 1 and not words[0].startswith("-") and ("=" not in words[0] or Path(words[0]).is_dir()):
        from snp.plan.plan import PruningPlan
        from snp.run.errors import guarded

        plan = guarded(PruningPlan.load)(Path(words[0]) / "plan.json")
        print(plan)
        if not plan.latency:
            _print_time(Path(words[0]))
        return
    from snp.run.command import run

    is_help = any(word in ("--help", "-h") for word in words)
    run(words if is_help else [*words, "prune.dry_run=true"], program="snp inspect")


def _print_time(folder: Path) -> None:
    """What passes in turns took at the end of a run that was asked for something else than time."""
    from snp.report.record import read_json
    from snp.report.speed import in_turns
    from snp.run.errors import guarded

    for sentence in in_turns(guarded(read_json)(folder / "metrics.json")):
        print(f"\n{sentence}")


if __name__ == "__main__":
    main()
