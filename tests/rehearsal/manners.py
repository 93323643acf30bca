"""How is each documented command rehearsed?  As printed; what is replaced, added or left out stands here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["MANNERS", "Manner"]

# Training goes through one epoch where the page's own has many; no network of random data is better for more.
QUICK = "dense.epochs=1 finetune.epochs=1"
FEW = f"{QUICK} calibration.samples=48"


@dataclass(frozen=True)
class Manner:
    """How a command is rehearsed.

    Attributes:
        how: ``run`` it; only ``compose`` its options, or compare its flags with what ``--help`` says (``describe``);
            or leave it to what ``reason`` names (``left``).
        words: what stands in the page -> what takes its place; a name of the material in braces becomes a path.
        more: options behind the command's own.
        reason: why it is not run as printed.
        prints: what a run must have printed.
    """

    how: Literal["run", "compose", "describe", "left"]
    words: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    reason: str = ""
    prints: str = "Run folder: "


_CIFAR = {"data.root=PATH": "data.root={cifar}", "FILE.safetensors": "{weights}", "=FILE": "={weights}"}
_OPT = {"model.checkpoint=FOLDER": "model.checkpoint={opt}", "data.train=FILE": "data.train={train}",
        "data.test=FILE": "data.test={test}", "data.path=FOLDER": "data.path={wiki}",
        "data.second=FILE": "data.second={second}"}  # fmt: skip
_TEXTS = {"--model PATH": "--model {opt}", "--model FOLDER": "--model {opt}",
          "--train PATH": "--train {train}", "--test PATH": "--test {test}",
          "--second FILE": "--second {train}"}  # fmt: skip
_SWEEP = "multirun/2026-01-02/03-04-05"
_LONG = "takes minutes to hours on the networks and data it names; tests/benchmarks runs its parts"
_IMAGENET = "ImageNet and its pretrained weights are not at hand"

# A pattern that the whole command must match -> how; every pattern must be needed.
MANNERS: dict[str, Manner] = {
    # -------------------------------------------------------------------------------------------------- whole runs
    r"python run\.py|snp run": Manner("run", more=QUICK),
    r"python run\.py model=resnet50 prune\.target_var=0\.95": Manner("run", more=FEW),
    r"python run\.py model=timm model\.name=resnet18 data=image_folder data\.root=PATH": Manner(
        "run", {"PATH": "{images}"}, f"{FEW} data.image_size=64"
    ),
    r"python run\.py model=cifar_resnet56 .*": Manner("run", _CIFAR, "calibration.samples=48"),
    r"python run\.py model=resnet50 prune\.dry_run=true .*": Manner("run", prints="Run folder: "),
    r"python run\.py finetune\.(epochs=0 cache_dir=PATH|distil=0)": Manner(
        "run", {"PATH": "cache"}, "dense.epochs=1 calibration.samples=48"
    ),
    r"python run\.py (prune\.reconstruct=tuned|prune\.round_to=auto) ?.*": Manner(
        "run", {"tune_epochs=40": "tune_epochs=2"}, FEW
    ),
    r"python run\.py prune\.structures=\[ffn,blocks\] .*": Manner("run", more=f"{QUICK} calibration.samples=160"),
    r"python run\.py data=digit_pairs seed=0.*": Manner("run", more=FEW),
    r"python run\.py prune\.target_latency=0\.7": Manner("run", more=f"{QUICK} calibration.samples=160"),
    r"python run\.py trainer=ddp_cpu": Manner("run", more=QUICK),
    r"(python run\.py|snp run) experiment=ratios": Manner(
        "run",
        more=f"{FEW} data=digits prune.target_macs=0.7 prune.ordering=auto,zca seed=0",
        prints="Summary of all runs: ",
    ),
    r"python run\.py experiment=orderings": Manner(
        "run",
        more=f"{FEW} data=digits finetune.epochs=0 prune.ordering=saw,zca prune.target_macs=0.5 seed=0",
        prints="Summary of all runs: ",
    ),
    r"python run\.py model=(opt|huggingface) .*": Manner("run", _OPT, "calibration.samples=16 data.context=12"),
    r"torchrun --standalone .*": Manner("run", {"=FOLDER": "=by_torchrun"}),
    r"(python run\.py|snp run) --(help|cfg job --resolve model=resnet50)": Manner("run", prints="target_macs"),
    r"(python -m snp\.export RUN_DIR|snp export (FOLDER|small)).*": Manner(
        "run", {"RUN_DIR": "{run}", "FOLDER": "{run}", "export small": "export {run}", "256": "32"}, prints="onnx"
    ),
    r"snp inspect model=timm .*": Manner("run", {"=photos": "={images}"}, prints="group"),
    r"snp inspect FOLDER": Manner("run", {"FOLDER": "{run}"}, prints="units"),
    r"snp run model=timm .*": Manner("run", {"=photos": "={images}"}, FEW),
    r"snp run -m seed=0,1,2 .*": Manner("run", {"seed=0,1,2": "seed=0"}, FEW, prints="Summary of all runs: "),
    r"snp compare FOLDER": Manner("run", {"FOLDER": "{run}"}, prints=""),
    r"snp run experiment=(ratios|orderings) model=cifar_resnet56 .*": Manner(
        "left", reason="a dozen runs of a minute; the experiments themselves are rehearsed on the digits"
    ),
    r"snp compare RUN RUN .*|python -m snp\.report .*": Manner(
        "run",
        {"RUN RUN ...": "{run} {run}", "FOLDER": "figures", "report RUN": "report {run}", f"{_SWEEP} ": "{run} "},
        prints="",
    ),
    r"python run\.py dense\.epochs=4 .*": Manner("run", more=FEW),
    r"python run\.py -m dense\.epochs=2 .*": Manner(
        "run", {"0.35,0.5,0.7": "0.5"}, FEW, prints="Summary of all runs: "
    ),
    # ----------------------------------------------------------------- what this machine lacks: composed, not run
    r"python run\.py model=deit_small data=imagenet .*": Manner("compose", reason=f"needs a GPU; {_IMAGENET}"),
    r"python run\.py model=resnet50 data=imagenet .*": Manner("compose", reason=_IMAGENET),
    r"snp run experiment=paper_resnet50 .*": Manner("compose", reason=_IMAGENET),
    r"srun python run\.py .*": Manner("compose", reason="needs Slurm"),
    r"torchrun --nnodes=2 .*": Manner("compose", reason="needs two machines"),
    r"python run\.py -m hydra/sweeper=optuna .*": Manner(
        "left", reason="needs the extra snp[optuna] and 20 runs; tests/run/test_sweeps.py runs three"
    ),
    r"python run\.py -m hydra/launcher=submitit_slurm .*": Manner(
        "left", reason="needs Slurm; tests/run/test_cluster.py composes it and runs the local executor"
    ),
    # ---------------------------------------------------------------------------------------------------- benchmarks
    r"python benchmarks/ordering_cost\.py .*": Manner(
        "run", {"1024 2048": "32 64", "8192": "64", "512 4096": "32 64"}, "--iterate 0", prints="|"
    ),
    r"python benchmarks/opt_perplexity\.py .*": Manner(
        "run", _TEXTS, "--windows 6 --samples 20 --context 12 --removed 0.2", prints="perplexity"
    ),
    r"python benchmarks/fuzz\.py .*": Manner("run", {"2000": "3"}, prints="wrong 0 of 3"),
    r"python benchmarks/on_gpu\.py --device cpu --small": Manner("run", more="--minutes 25", prints="failed 0 of"),
    r"python benchmarks/(?!ordering_cost|opt_perplexity|fuzz)[\w/]+\.py.*": Manner("describe", reason=_LONG),
    # ------------------------------------------------------------------------------------------- left to other checks
    r"HYDRA_FULL_ERROR=1 (python run\.py|snp run) \.\.\.": Manner("left", reason="the dots are any options"),
    r"pip install .*": Manner("left", reason=".ci/run installs; a rehearsal has no network"),
    r"(pytest|coverage) .*|\.ci/run": Manner("left", reason="runs this very test"),
    r"wandb (sweep|agent|sync).*": Manner("left", reason="needs the server; tests/run/test_sweeps.py has a stand-in"),
}
