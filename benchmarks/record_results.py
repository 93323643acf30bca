"""Do plans, weights and metrics stay equal to the bit while code is moved?  Record before, compare after.

    python benchmarks/record_results.py --out before.json [--shared FOLDER] [--parts digits resnet56 opt coverage heads]
    python benchmarks/record_results.py --out after.json --against before.json

``FOLDER`` holds ``data/cifar10``, ``data/text`` and ``models`` (the README of the data says what lies there); without
it the runs on real data are left out. One thread, seed 0. The last line is ``equal E of N``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = (
    "timm/resnet10t timm/mobilenetv3_small_050 timm/regnetx_002 timm/convnext_atto torchvision/squeezenet1_1 "
    "torchvision/mnasnet0_5 timm/ghostnet_050 timm/efficientnet_lite0 timm/resnet18 timm/densenet121"
).split()
RUNS = {
    "digits": "dense.epochs=2 finetune.epochs=1",
    "resnet56": "model=cifar_resnet56 model.checkpoint={shared}/models/cifar10_resnet56.safetensors data=cifar10 "
    "data.root={shared}/data/cifar10 calibration.samples=256 finetune.epochs=0 prune.target_macs=0.5",
    "opt": "model=opt model.checkpoint={shared}/models/opt_small calibration.samples=32 finetune.epochs=0 "
    "prune.target_params=0.8 data=text data.train={shared}/data/text/wikitext2_valid.txt "
    "data.test={shared}/data/text/wikitext2_test.txt",
}
# What a clock says, and what names a place or a version.
LOOSE = ("time/", "memory/", "latency", "samples_per_s", "forward_s")


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hash of names, shapes and bytes."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def plan_facts(text: str) -> dict[str, Any]:
    """What a plan decided: kept units, slices, costs; not the versions that made it."""
    plain = json.loads(text)
    groups = [{key: value for key, value in group.items() if key != "curve"} for group in plain["groups"]]
    facts: dict[str, Any] = {key: plain[key] for key in ("macs", "params", "frozen")}
    facts["level"] = plain["settings"]["level"]
    facts["kept"] = {group["name"]: group["kept"] for group in groups}
    facts["groups"] = hashlib.sha256(json.dumps(groups, sort_keys=True).encode()).hexdigest()
    return facts


def of_run(options: str) -> dict[str, Any]:
    """Facts of one run of the command line."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "run.py", f"hydra.run.dir={folder}", "trainer=cpu", "seed=0", "logger=csv"]
        subprocess.run([*command, *options.split()], cwd=ROOT, check=True)
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
        kept = {key: value for key, value in metrics.items() if not any(word in key for word in LOOSE)}
        weights = {path.name: digest(load_file(path)) for path in sorted(Path(folder).glob("*.safetensors"))}
        return {"metrics": kept, "weights": weights, "plan": plan_facts((Path(folder) / "plan.json").read_text())}


def of_network(label: str, **options: Any) -> dict[str, Any]:
    """Facts of one call of the library on random weights and images."""
    import timm
    import torchvision

    import snp

    library, name = label.split("/")
    torch.manual_seed(0)
    sizes = {"img_size": 64, "depth": 4} if "deit" in name else {}
    model = timm.create_model(name, **sizes) if library == "timm" else torchvision.models.get_model(name)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():  # last norms of blocks start at zero, which would hide the blocks
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    images = torch.randn(16, 3, 64, 64, generator=generator)
    result = snp.prune(model.eval(), images.split(8), target_macs=0.7, **options)
    return {"plan": plan_facts(result.plan.to_json()), "weights": digest(result.model.state_dict())}


def jobs(shared: str | None, parts: list[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Everything that is recorded, by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, options in RUNS.items():
        if name in parts and (shared or "{shared}" not in options):
            found[name] = lambda options=options: of_run(options.format(shared=shared))
    if "coverage" in parts:
        for label in NETWORKS:
            found[label] = lambda label=label: of_network(label, streams=True)
    if "heads" in parts:
        label = "timm/deit_tiny_patch16_224"
        found[label] = lambda: of_network(label, structures=("ffn", "vo", "qk", "heads"))
    return found


def main() -> None:
    """Record, and compare where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--shared")
    parser.add_argument("--parts", nargs="+", default=[*RUNS, "coverage", "heads"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(arguments.against.read_text()) if arguments.against else {}
    found, equal, compared = {}, 0, 0
    for name, job in jobs(arguments.shared, arguments.parts).items():
        found[name] = json.loads(json.dumps(job()))
        arguments.out.write_text(json.dumps(found, indent=1))
        if name in before:
            compared += 1
            differing = [part for part, value in before[name].items() if found[name].get(part) != value]
            equal += not differing
            print(f"{name}: {'equal' if not differing else 'differs in ' + ', '.join(differing)}", flush=True)
        else:
            print(f"{name}: recorded", flush=True)
    if before:
        print(f"equal {equal} of {compared}")


if __name__ == "__main__":
    main()
