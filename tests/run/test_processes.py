"""Do processes of a run go on with the same, however long one of them works alone?"""

import datetime
import json
import os
import pickle
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from snp.run.processes import OVER_PROCESSES, agreed, copy_from_first, destroy_group, from_first, on_first

_LIMIT_S = 3  # of every collective


def network(rank: int) -> nn.Module:
    """Different weights on each process, in several types, with an entry without dimensions."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 1).double())
    model[1].num_batches_tracked += rank
    model.register_buffer("mask", torch.tensor([rank == 0, False]))
    return model


def refuse_to_pickle(*args: Any) -> None:
    raise AssertionError("something was pickled")


def work_together(rank: int, folder: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "RANK": str(rank)}
    limit = datetime.timedelta(seconds=_LIMIT_S)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=limit)
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = rank
    pickle.dumps = pickle.Pickler = refuse_to_pickle  # type: ignore[assignment, misc]

    def slow() -> str:
        time.sleep(_LIMIT_S + 2)
        return "plän " * 1000 + str(rank)

    found: dict[str, Any] = {"text": from_first(slow), "empty": from_first(lambda: "")}
    found["alone"] = on_first(lambda: rank)
    model = network(rank)
    copy_from_first(model)
    wanted = network(0).state_dict()
    found["equal"] = all(torch.equal(entry, wanted[name]) for name, entry in model.state_dict().items())
    found["agreed"] = [agreed(True), agreed(rank == 0), agreed(False)]
    found["sum"] = OVER_PROCESSES.of(torch.tensor([1.0, rank])).tolist()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    destroy_group()


@pytest.mark.slow
def test_two_processes_go_on_with_the_same(tmp_path: Path) -> None:
    """A decision longer than any collective may take, texts, weights of all types, agreement, sums; without pickle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work_together, args=(str(tmp_path), port), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["text"] == "plän " * 1000 + "0"
        assert found["empty"] == ""
        assert found["alone"] == (0 if rank == 0 else None)
        assert found["equal"]
        assert found["agreed"] == [True, False, False]
        assert found["sum"] == [2.0, 1.0]
