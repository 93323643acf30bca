"""What does the Hub want to know of a pruned network?  Its model card: a header for machines, and a page for people."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from snp.report.choice import better_stage
from snp.report.document import Code, Page, Section, Text
from snp.report.findings import findings
from snp.report.markdown import to_markdown
from snp.report.outcome import comparison, headline, target_words
from snp.report.record import Record
from snp.report.stages import number, score_of

__all__ = ["model_card"]

_TASKS = {
    "acc1_percent": ("image-classification", "Image Classification"),
    "perplexity": ("text-generation", "Text Generation"),
}
_METRICS = {"acc1_percent": ("accuracy", "Accuracy (top-1)", 0.01), "perplexity": ("perplexity", "Perplexity", 1.0)}


def model_card(record: Record) -> str:
    """The text of the card of the better small network.

    It names no licence: that of the dense network's weights and of the data holds, and only their user knows it.

    Args:
        record: of the run.
    """
    return f"---\n{_header(record).to_yaml()}\n---\n\n{to_markdown(_page(record))}"


def _header(record: Record) -> ModelCardData:
    score, best = score_of(record.metrics), better_stage(record.metrics) or "pruned"
    task, task_name = _TASKS[score]
    metric, metric_name, unit = _METRICS[score]
    value = number(record.metrics, f"{best}/{score}")
    results = None
    if value is not None and record.data:
        results = [
            EvalResult(
                task_type=task, task_name=task_name, dataset_type=record.data, dataset_name=record.data,
                metric_type=metric, metric_name=metric_name, metric_value=round(value * unit, 6),
            )
        ]  # fmt: skip
    return ModelCardData(
        library_name="snp", pipeline_tag=task, tags=["pruning", "structured-pruning", "subspace-node-pruning"],
        datasets=None, model_name=f"{record.model}-pruned", eval_results=results,
    )  # fmt: skip


def _page(record: Record) -> Page:
    best = better_stage(record.metrics) or "pruned"
    weights = "" if best == "pruned" else f', weights="{best}"'
    dense = "" if record.plan.get("recipe") is not None else ", model=dense"
    facts, settings = record.facts, record.settings
    lead = headline(record) or Text("What the network scores was not measured.")
    source = f" of {record.data}" if record.data else ""
    how = (
        f"Whole units of {record.model} were removed by Subspace Node Pruning ({record.rule}; {target_words(record)}) "
        f"and what they did was folded into the weights that stay, on {settings.get('samples', 'some')} unlabelled "
        f"samples{source}, seed {record.seed}."
    )
    if best != "pruned" and settings.get("reconstruct") == "tuned":
        how += " It was then trained on the dense network's outputs for these samples, without labels."
    if best == "finetuned":
        how += " It was fine-tuned on labelled samples."
    limits = (
        "The network knows what its calibration samples showed; on other data it may have lost more than the table "
        "says.",
        *findings(record),
    )
    sections = (
        Section("", (lead, Text(how))),
        Section("Use", (Code(f'import snp\n\nmodel = snp.load("FOLDER"{dense}{weights})  # a plain nn.Module'),)),
        Section("Results", tuple(comparison(record))),
        Section("Limits", tuple(Text(sentence) for sentence in limits)),
        Section(
            "Made by",
            (Text(", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items()) or "snp"),)
            + ((Code(str(facts["command"])),) if facts.get("command") else ()),
        ),
    )
    return Page(f"{record.model}, pruned", sections)
