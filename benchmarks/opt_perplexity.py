"""What does a pruned language model lose, by SNP and by its peers, with the same parameters left?

All methods get the same calibration text, the same groups of units, and the same budgets: shares of the parameters
outside embeddings. All are calls of ``snp.prune``, but for means that peers fold into biases, and SliceGPT. Nothing is
trained but by the method that says so, which has to be asked for. ``--structures ffn ffn,vo`` compares what may be cut,
too.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import existing, print_provenance, print_table
from peers.mean_folding import fold_means
from peers.slicegpt import sliced
from torch import Tensor, nn

import snp
from snp.data.text import TextData
from snp.data.windows import IGNORED
from snp.fit.preparation import problem_of
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.models import huggingface
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of

# The peers choose by their own scores of plain sums of squares, and are fitted as their papers say.
_PEER = {"reconstruct": False, "calibration": "joint", "largest_token": None}
SLICED = "SliceGPT-style, no fit"
TUNED = "SNP, then tuned without labels"
FLAP_FITTED = "FLAP's units, SNP's fit"
METHODS: dict[str, dict[str, Any]] = {
    "magnitude, deletion": {**_PEER, "planner": "magnitude"},
    "Wanda-sp, deletion": {**_PEER, "planner": "wanda_sp"},
    "FLAP-style, means into biases": {**_PEER, "planner": "flap"},
    "VBP-style, means into biases": {**_PEER, "planner": "vbp"},
    "OSSCAR-style, least squares": {**_PEER, "planner": "osscar", "reconstruct": True},
    SLICED: {},
    "SNP, the paper's form": {"ordering": "zca", "cut": "variance", "calibration": "joint"},
    "SNP, library defaults": {},
    TUNED: {"reconstruct": "tuned"},
    FLAP_FITTED: {"planner": "flap"},
}
MEANS_FOLDED = ("FLAP-style, means into biases", "VBP-style, means into biases")


def perplexities(model: nn.Module, data: TextData, num_windows: int | None) -> list[float]:
    """Over the first windows of the test text, or over all of it; then the same of the second text if there is one."""
    texts = [data.test_dataloader(), *([data.second_dataloader()] if data.has_second else [])]
    return [_perplexity(model, text, num_windows) for text in texts]


def _perplexity(model: nn.Module, text: Iterable[tuple[Tensor, Tensor]], num_windows: int | None) -> float:
    total = count = seen = 0.0
    with torch.inference_mode():
        for tokens, labels in text:
            logits = model(tokens).logits.float().movedim(-1, 1)
            total += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
            seen += len(tokens)
            if num_windows is not None and seen >= num_windows:
                break
    return math.exp(total / count)


class Bench:
    """One network whose structures of some kinds may be cut, by every method as anybody calls it.

    Args:
        model: dense.
        batches: calibration samples.
        structures: as ``prune.structures``.
        seed: of everything random.
    """

    def __init__(self, model: nn.Module, batches: list[Tensor], structures: Sequence[str], seed: int = 0) -> None:
        self._model, self._batches = model, batches
        self._asked = {"structures": tuple(structures), "seed": seed}
        self._measured: tuple[Subject, Problem] | None = None

    def pruned(self, method: str, **options: Any) -> nn.Module:
        """The small network of one method; options are its target, and what differs from the method's own."""
        if method == SLICED:  # of the width alone, whatever else may be cut
            return sliced(self._model, self._batches, options["target_params"])
        settings = PruneSettings(**{**self._asked, **METHODS[method], **options})
        result = snp.prune(self._model, self._batches, settings, progress=False)
        print(_kept(result.plan), file=sys.stderr)
        return fold_means(*self._means(settings), result.plan) if method in MEANS_FOLDED else result.model

    def _means(self, settings: PruneSettings) -> tuple[Subject, Problem]:
        """What every layer reads on average, measured once for all methods that fold it into biases."""
        if self._measured is None:
            subject = subject_of(self._model, self._batches[0][:2], settings)
            with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
                for batch in Batch.all(self._batches):
                    collector.measure(batch.beside(subject.model))
            self._measured = subject, problem_of(subject, collector.moments)
        return self._measured


def _kept(plan: PruningPlan) -> str:
    """Share of the units that stay, by kind of structure."""
    kinds: dict[str, list[int]] = {}
    for one in plan.groups:
        kept, total = kinds.get(one.group.kind, [0, 0])
        kinds[one.group.kind] = [kept + len(one.kept), total + one.group.num_units]
    return ", ".join(f"{kind} {kept / total:.2f}" for kind, (kept, total) in kinds.items())


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder in Hugging Face form")
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text for the perplexity")
    parser.add_argument("--second", type=Path, help="text of another kind, for a second table")
    parser.add_argument("--context", type=int, default=256, help="tokens per window")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--windows", type=int, default=None, help="test windows; all of the text without")
    parser.add_argument("--removed", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    usual = [method for method in METHODS if method not in (TUNED, FLAP_FITTED)]
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=usual)
    parser.add_argument(
        "--structures", nargs="+", default=["ffn"], help="sets of structures to cut, with commas, one table row each"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration windows")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    for name in ("model", "train", "test", "second"):
        if name != "second" or options.second:
            existing(getattr(options, name), f"--{name}")
    model = huggingface.load(options.model)[0].eval()
    second = str(options.second) if options.second else None
    data = TextData(str(options.train), str(options.test), second=second, context=options.context)
    data.configure(str(options.model), huggingface.context_length(model))
    batches = [tokens for tokens, _ in data.calibration_dataloader(options.samples, options.seed)]
    dense = perplexities(model, data, options.windows)
    found: dict[str, list[list[float]]] = {}
    for structures in options.structures:
        bench = Bench(model, batches, structures.split(","))
        for removed, method in product(options.removed, options.methods):
            row = method if len(options.structures) == 1 else f"{method}: {structures.replace(',', ', ')}"
            found.setdefault(row, []).append(
                perplexities(bench.pruned(method, target_params=1 - removed), data, options.windows)
            )
            said = ", ".join(f"{value:.2f}" for value in found[row][-1])
            print(f"{removed:.0%} {row}: {said}", file=sys.stderr, flush=True)
    for place, text in enumerate(("test", "second")[: len(dense)]):
        of_text = {row: [each[place] for each in values] for row, values in found.items()}
        _print_text(text, dense[place], of_text, options)
    print_provenance()


def _print_text(text: str, dense: float, found: Mapping[str, Sequence[float]], options: argparse.Namespace) -> None:
    """The table of one text."""
    rows = [[m, *(f"{value:.2f} ({value / dense:.3f})" for value in values)] for m, values in found.items()]
    scored = "all" if options.windows is None else f"the first {options.windows}"
    print(f"\nPerplexity (times dense {dense:.2f}) with a share of the parameters outside embeddings removed;")
    print(f"{options.samples} calibration windows, {scored} windows of the {text} text, {options.context} tokens each")
    print_table(["method", *(f"{removed:.0%}" for removed in options.removed)], rows)


if __name__ == "__main__":
    main()
