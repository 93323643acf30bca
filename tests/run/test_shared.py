"""Do the processes that wait for the first one do their share, whatever goes wrong with them?"""

import datetime
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from snp.run.processes import agreed, destroy_group, on_first
from snp.run.shared import Helper, SharedOut

_LIMIT_S = 2  # of every collective
PIECES = [{"number": number} for number in range(7)]


def third(piece: dict[str, Any]) -> list[float]:
    """Numbers that no short decimal is equal to."""
    return [piece["number"] / 3, float("inf")]


def work_together(rank: int, folder: str, port: int, num_processes: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "RANK": str(rank)}
    limit = datetime.timedelta(seconds=_LIMIT_S)
    dist.init_process_group("gloo", rank=rank, world_size=num_processes, timeout=limit)
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = rank
    done: list[int] = []

    def first(shared: SharedOut) -> list[Any]:
        return [shared.of(kind, PIECES, work, lambda: done.append(1)) for kind in ("plain", "slow")]

    def work(piece: dict[str, Any]) -> Any:
        return third(piece)

    def elsewhere(kind: str, piece: dict[str, Any]) -> Any:
        if kind == "slow":
            time.sleep((_LIMIT_S + 1) / 2)
        return [*third(piece)]

    def broken(kind: str, piece: dict[str, Any]) -> Any:
        raise ValueError("no memory left")

    def not_ready() -> Callable[[str, dict[str, Any]], Any]:
        raise OSError("the samples are gone")

    found: dict[str, Any] = {}
    for name, prepare in (("well", lambda: elsewhere), ("broken", lambda: broken), ("not ready", not_ready)):
        shared = SharedOut()
        result = on_first(lambda shared=shared: first(shared), Helper(shared, prepare))
        found[name] = [result, str(shared)]
    found["alone"] = on_first(lambda: SharedOut().of("plain", PIECES[:1], work))
    found["done"] = len(done)
    agreed(True)  # the first process holds the store
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    destroy_group()


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 3])
def test_every_process_does_its_share(num_processes: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In order, to the bit, longer than a collective may take; what one cannot do the first does, and says so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work_together, args=(str(tmp_path), port, num_processes), nprocs=num_processes)
    found = json.loads((tmp_path / "0.json").read_text())
    wanted = [[third(piece) for piece in PIECES]] * 2
    counts = {2: "4 + 3", 3: "3 + 2 + 2"}[num_processes]
    assert found["well"] == [wanted, f"plain {counts}, slow {counts}"]
    alone = {2: "4 + 0", 3: "3 + 0 + 0"}[num_processes]
    for name in ("broken", "not ready"):
        assert found[name] == [wanted, f"plain {alone}, slow {alone}"]
    assert found["alone"] == wanted[0][:1]
    assert found["done"] == 3 * 2 * len(PIECES)
    assert json.loads((tmp_path / "1.json").read_text())["well"] == [None, ""]
    said = "".join(capfd.readouterr())
    assert "process 1 could not help, process 0 does its share: ValueError: no memory left" in said
    assert "OSError: the samples are gone" in said


def test_one_process_does_all_of_it() -> None:
    """Without a group of processes nothing is asked of anybody."""
    shared = SharedOut()
    assert shared.num_processes == 1
    assert shared.of("plain", PIECES, third) == [third(piece) for piece in PIECES]
    assert not shared.counts
