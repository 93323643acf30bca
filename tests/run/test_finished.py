"""Which stages of a run count as done, when their files are looked at again?"""

from pathlib import Path

import pytest

from snp.run.finished import Finished
from snp.run.folder import RunFolder


@pytest.mark.parametrize("is_renewed", [True, False])
def test_files_that_are_written_again(tmp_path: Path, is_renewed: bool) -> None:
    """Times that are measured later go into the plan: it stays the finished one if that is said, and only then."""
    folder = RunFolder(tmp_path)
    finished = Finished(folder)
    (tmp_path / "plan.json").write_text("units")
    folder.record({"prune/threshold": 0.5})
    finished.note("plan", "mark", ("plan.json",))
    (tmp_path / "plan.json").write_text("units and times")
    if is_renewed:
        finished.renew("plan")
    again = RunFolder(tmp_path)
    assert Finished(again).found("plan", "mark") == is_renewed
    assert ("prune/threshold" in again.metrics) == is_renewed
    assert not Finished(again).found("plan", "another")
