"""Does everything that ships run on one GPU, and at what cost?  One command, no network, at most eight minutes.

Whole runs by `run.py` on scikit-learn's digits, and calls of the library on full-size networks with random weights and
random images of 224 x 224 pixels; every job in a process of its own. `--device cpu --small` rehearses the same jobs on
small networks where there is no GPU. The last line says how many failed, and the exit status is 1 where any did.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import FITS, print_provenance, print_table
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
PLAIN: dict[str, Any] = {"ordering": "zca", "cut": "variance", **FITS["joint"]}
# As timm initialises it, the last norm of every residual block is zero, and a check would see nothing.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("resnet50", {"zero_init_last": False}),
    "deit_small": ("deit_small_patch16_224", {}),
}
SMALL_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("resnet18", {"zero_init_last": False}),
    "deit_small": ("deit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
}
# The epochs and samples of the small runs; those of the first job are the defaults otherwise.
QUICK = ["dense.epochs=2", "finetune.epochs=1"]
SMALL = ["dense.epochs=1", "finetune.epochs=1", "calibration.samples=65", "data.image_size=8"]
# Whole blocks are weighed from 128 samples on.
BY_TIME = ["prune.target_latency=0.7", "calibration.samples=160"]
REPEATS = 3


@dataclass(frozen=True)
class Job:
    """One thing that ships.

    Attributes:
        name: in the table.
        words: of a command, started in the repository; empty where the library is called.
        call: what is measured in a process of its own, by its name.
        folder: of the run, whose numbers are looked up.
    """

    name: str
    words: tuple[str, ...] = ()
    call: str = ""
    folder: str = ""


def jobs_of(options: argparse.Namespace, out: Path) -> list[Job]:
    """Every job: the quick ones first, so that a budget of time that is too short leaves out the longest."""
    cuda = options.device == "cuda"
    quick, trainer = (QUICK, []) if not options.small else (SMALL, [])
    trainer = [] if cuda else ["trainer=cpu"]

    def run(name: str, *words: str) -> Job:
        folder = str(out / name.replace(",", "").replace(" ", "_"))
        options_of_run = [*quick, *trainer, *words, f"hydra.run.dir={folder}", "logger=csv"]
        if name == "digits, defaults" and not options.small:
            options_of_run = [*trainer, f"hydra.run.dir={folder}"]
        return Job(name, ("run.py", *options_of_run), folder=folder)

    first = run("digits, defaults")
    several = ["trainer=ddp"] if cuda else ["trainer=ddp_cpu"]
    found = [
        first,
        Job("export", ("-m", "snp.export", first.folder)),
        run("digits, bf16-mixed", "trainer.precision=bf16-mixed"),
        run("digits, ddp with one process", *several, "trainer.devices=1"),
        run("digits, streams", "prune.streams=true", "finetune.epochs=0"),
        run("resnet56", "model=cifar_resnet56", "finetune.epochs=0"),
        run("resnet56, blocks by time", "model=cifar_resnet56", "finetune.epochs=0", *BY_TIME),
        Job("opt", call="opt"),
        Job("resnet50, target_latency", call="latency"),
        Job("resnet50, target_latency, few images", call="latency few"),
        Job("resnet50, round_to=auto", call="auto"),
    ]
    return [*found, *(Job(f"{net}, {way}", call=f"{way} {net}") for way in ("plain", "default") for net in NETWORKS)]


# ------------------------------------------------------------------------------------------------ calls of the library


def synchronised(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def images_and_network(name: str, small: bool, device: torch.device) -> tuple[nn.Module, list[Tensor]]:
    """Random weights on the device, and random images in main memory, as a loader gives them."""
    from snp import models

    torch.manual_seed(0)
    timm_name, arguments = (SMALL_NETWORKS if small else NETWORKS)[name]
    model = models.build("timm", {"model_name": timm_name, **arguments}, num_classes=100).eval()
    side, count = (32, 8) if small else (224, 32)
    return model.to(device), list(torch.randn(count, 3, side, side).split(count // 2))


def ratio_of(model: nn.Module, batches: list[Tensor], options: dict[str, Any], device: torch.device) -> float:
    """Time of a pass that measures over that of a plain one, median of passes in turns."""
    from snp.graph.batches import Batch
    from snp.measure.moments import MomentCollector
    from snp.settings import PruneSettings
    from snp.surgery.subject import subject_of

    readers = subject_of(model, Batch.of(batches[0]).first(2), PruneSettings(**options)).readers

    def seconds(read: dict[str, Any]) -> float:
        synchronised(device)
        started = time.perf_counter()
        with torch.no_grad(), MomentCollector(model, read) as collector:
            for batch in batches:
                collector.run(Batch.of(batch).beside(model))
        synchronised(device)
        return time.perf_counter() - started

    seconds(readers)
    return statistics.median(seconds(readers) / seconds({}) for _ in range(REPEATS))


def pruned(
    name: str, settings: dict[str, Any], options: argparse.Namespace, device: torch.device, *, ratio: bool = True
) -> dict[str, Any]:
    """One prune of an image network, and what it cost."""
    import snp

    model, batches = images_and_network(name, options.small, device)
    result = snp.prune(model, batches, **settings)
    facts = {"calibrate / forward": ratio_of(model, batches, settings, device)} if ratio else {}
    return facts | facts_of(result, device)


def facts_of(result: Any, device: torch.device) -> dict[str, Any]:
    """What is left, the self-check, and the peak of the device's memory; the small network lies on the device."""
    assert {tensor.device.type for tensor in result.model.state_dict().values()} == {device.type}
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    share = result.plan.macs["pruned"] / result.plan.macs["dense"]
    facts = {"MACs left": share, "self-check": result.check, "peak GiB": peak, **result.plan.latency}
    return facts | {name: result.plan.settings[name] for name in ("round_to", "round_from")}


def opt(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """A causal language model: the folder's, or a small one of random weights."""
    import snp
    from snp.models import huggingface

    torch.manual_seed(0)
    if options.opt is not None:
        model, _ = huggingface.load(options.opt)
    else:
        sizes = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 256, "num_hidden_layers": 3}
        config = {"model_type": "opt", "vocab_size": 500, "num_attention_heads": 4, "max_position_embeddings": 128}
        model = huggingface.build(config=config | sizes)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    tokens = torch.randint(4, vocabulary, (16, 32 if options.small else 128))
    return facts_of(snp.prune(model.eval().to(device), list(tokens.split(4)), target_params=0.8), device)


def calls(options: argparse.Namespace) -> dict[str, Callable[[torch.device], dict[str, Any]]]:
    """Name of a call -> the call."""
    timed = {"target_latency": 0.9, "latency_batch": 2 if options.small else 32, **PLAIN}
    few = timed | {"latency_batch": 2}  # a GPU waits for launches, so that passes are replayed as CUDA graphs
    rounded = {"target_macs": 0.7, "round_to": "auto", "latency_batch": timed["latency_batch"], **PLAIN}
    found: dict[str, Callable[[torch.device], dict[str, Any]]] = {
        "opt": lambda device: opt(options, device),
        "latency": lambda device: pruned("resnet50", timed, options, device, ratio=False),
        "latency few": lambda device: pruned("resnet50", few, options, device, ratio=False),
        "auto": lambda device: pruned("resnet50", rounded, options, device, ratio=False),
    }
    for name in NETWORKS:
        for way, settings in (("plain", PLAIN), ("default", {})):
            asked = {"target_macs": 0.7, **settings}
            found[f"{way} {name}"] = partial(pruned, name, asked, options)
    return found


# -------------------------------------------------------------------------------------------------------- the table


def started(job: Job, options: argparse.Namespace, seconds: float) -> tuple[float, dict[str, Any] | str]:
    """Seconds that a job took, and its facts; or why it failed."""
    words = list(job.words)
    if job.call:
        words = [str(Path(__file__).resolve()), "--job", job.call, "--device", options.device]
        words += ["--small"] * options.small + (["--opt", str(options.opt)] if options.opt else [])
    begin = time.perf_counter()
    try:
        ended = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1)
        )
    except subprocess.TimeoutExpired:
        return time.perf_counter() - begin, "no time left"
    took = time.perf_counter() - begin
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no message"]
        print(f"\n== {job.name}\n" + "\n".join(lines[-30:]), file=sys.stderr, flush=True)
        return took, lines[-1][:150]
    if job.call:
        return took, json.loads(ended.stdout.splitlines()[-1])
    return took, facts_of_run(Path(job.folder)) if job.folder else {}


def facts_of_run(folder: Path) -> dict[str, Any]:
    """The numbers of a run's folder that the table shows."""
    numbers = json.loads((folder / "metrics.json").read_text())
    stages = [numbers.get(f"{stage}/acc1_percent") for stage in ("dense", "pruned", "finetuned")]
    return {
        "top-1 %": ", ".join(f"{value:.1f}" for value in stages if value is not None),
        "MACs left": numbers["pruned/macs"] / numbers["dense/macs"],
        "self-check": numbers["prune/self_check"],
        "calibrate / forward": numbers["time/calibrate_s"] / numbers["time/forward_s"],
    }


_FORMS = {"calibrate / forward": ".2f", "MACs left": ".3f", "self-check": ".0e", "peak GiB": ".2f", "top-1 %": ""}
_FORMS |= {"measured_share": ".2f", "graphs": ".0f", "idle_share": ".2f", "overhead_share": ".2f"}
_FORMS |= {"round_to": "", "round_from": ""}


def row(job: Job, seconds: float, found: dict[str, Any] | str) -> list[str]:
    """A line of the table."""
    facts = found if isinstance(found, dict) else {}
    cells = [format(facts[name], form) if facts.get(name) is not None else "" for name, form in _FORMS.items()]
    return [job.name, f"{seconds:.0f}", *cells, "ok" if isinstance(found, dict) else f"failed: {found}"]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small networks and images: a rehearsal")
    parser.add_argument("--opt", type=Path, help="folder of an OPT; a small one of random weights without")
    parser.add_argument("--minutes", type=float, default=8, help="what is not done by then has failed")
    parser.add_argument("--out", type=Path, help="folder for the runs; a temporary one without")
    parser.add_argument("--side-by-side", type=int, default=1, help="so many at a time: on one GPU they take turns")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no GPU that PyTorch can use; --device cpu --small rehearses the jobs without one")
    if options.job:
        print(json.dumps(calls(options)[options.job](torch.device(options.device))))
        return
    ends = time.perf_counter() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        jobs = jobs_of(options, (options.out or Path(temporary)).resolve())

        def done(job: Job) -> list[str]:
            line = row(job, *started(job, options, ends - time.perf_counter()))
            print(" ".join(line), file=sys.stderr, flush=True)
            return line

        # Others look into the folder of the first.
        with ThreadPoolExecutor(options.side_by_side) as pool:
            lines = [done(jobs[0]), *pool.map(done, jobs[1:])]
    print_table(["job", "seconds", *_FORMS, ""], lines)
    print(f"device:   {torch.cuda.get_device_name() if options.device == 'cuda' else 'cpu'}")
    print_provenance()
    failed = sum(line[-1] != "ok" for line in lines)
    print(f"failed {failed} of {len(jobs)}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
