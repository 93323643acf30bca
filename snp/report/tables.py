"""What stands in a table that a run left?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_rows"]


def read_rows(table: Path, words: Sequence[str] = (), numbers: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows by the names of their columns; none where there is no such file.

    Args:
        table: a CSV file.
        words: columns that must be there.
        numbers: likewise, with a number in every row.

    Raises:
        ValueError: a column is missing, or a row was cut short or changed; file and line are named.
    """
    if not table.exists():
        return []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {*words, *numbers} - set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no table in UTF-8 ({error}); rerun the stage that writes it.") from error
    if missing:
        raise ValueError(f"{table} lacks the columns {', '.join(sorted(missing))}; rerun the plan stage.")
    for line, row in rows:
        wrong = [
            name for name in (*words, *numbers) if row[name] is None or (name in numbers and not _is_number(row[name]))
        ]
        if wrong:
            found = "nothing" if row[wrong[0]] is None else repr(row[wrong[0]])
            raise ValueError(
                f"{table}, line {line}: {wrong[0]} holds {found}; the file was cut short or changed, rerun the stage "
                "that writes it."
            )
    return [row for _, row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
