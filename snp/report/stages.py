"""Which stages did a run reach, and how are their numbers written for people?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STAGES = ("dense", "pruned", "tuned", "finetuned")
# Of one shape: trained on the dense network's outputs (tuned), or on labels (finetuned).
SMALL = STAGES[1:]
STAGE_WORDS = {
    "dense": "dense",
    "pruned": "after pruning",
    "tuned": "after tuning without labels",
    "finetuned": "after fine-tuning",
}
SMALL_WORDS = {"pruned": "pruned", "tuned": "tuned", "finetuned": "fine-tuned"}
# Key in metrics.json, and the word for people.
MEASURES = {
    "acc1_percent": "Accuracy (top-1, %)",
    "acc5_percent": "Accuracy (top-5, %)",
    "perplexity": "Perplexity",
    "second_perplexity": "Perplexity (second text)",
    "macs": "MACs",
    "params": "Parameters",
    "latency_ms": "Latency in turns (ms)",
    "samples_per_s": "Throughput (samples/s)",
    "tokens_per_s": "Throughput (tokens/s)",
    "size_bytes": "Weights (bytes)",
}
# The networks that are timed in turns; training changes no shapes, so its networks take what the pruned one takes.
TIMED = ("dense", "pruned")
_TIMES = ("latency_ms", "samples_per_s", "tokens_per_s")


# What a network is judged by, the first that was measured.
LOWER_IS_BETTER = ("perplexity",)
SCORE_WORDS = {"acc1_percent": "accuracy", "perplexity": "perplexity"}


@dataclass(frozen=True)
class Stage:
    """One state of the network and what was measured of it; None stands for "not measured".

    Attributes:
        name: one of `STAGES`.
        acc1_percent: Top-1 accuracy on the test part, percent.
        acc5_percent: Top-5 accuracy, percent; only measured with more than five classes.
        perplexity: Of a language model on the test text, at least 1.
        second_perplexity: The same on a second text.
        macs: Multiply-accumulates per sample.
        params: Number of parameters.
        latency_ms: Median time of a forward pass, milliseconds, of passes in turns with the other network's.
        samples_per_s: Throughput of passes of that time; of text `tokens_per_s` instead.
        tokens_per_s: Tokens of these passes.
        size_bytes: Of all tensors; their file holds a header, too.
    """

    name: str
    acc1_percent: float | None
    acc5_percent: float | None
    perplexity: float | None
    second_perplexity: float | None
    macs: float | None
    params: float | None
    latency_ms: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    size_bytes: float | None


def read_stages(metrics: Mapping[str, Any]) -> list[Stage]:
    """Return the stages with at least one number, in the order of `STAGES`.

    Args:
        metrics: The flat content of `metrics.json`; absent, null and non-finite values all mean "not measured".
    """
    stages = [Stage(name, **_measured(metrics, name)) for name in STAGES]
    return [stage for stage in stages if any(getattr(stage, measure) is not None for measure in MEASURES)]


def _measured(metrics: Mapping[str, Any], stage: str) -> dict[str, float | None]:
    """All measures of a stage; the only times are those of passes in turns."""
    found = {measure: number(metrics, f"{stage}/{measure}") for measure in MEASURES}
    latency = number(metrics, f"latency/{stage}_ms") if stage in TIMED else None
    batch, tokens = number(metrics, "latency/batch"), number(metrics, "latency/tokens")
    per_s = 1e3 * batch / latency if latency and batch else None
    throughput = {"samples_per_s": None if tokens else per_s, "tokens_per_s": per_s and tokens and per_s * tokens}
    return found | {"latency_ms": latency} | throughput


def score_of(metrics: Mapping[str, Any]) -> str:
    """Return the measure that a run is judged by: accuracy, or perplexity where that was measured instead."""
    stages = read_stages(metrics)
    measured = (score for score in SCORE_WORDS if any(getattr(stage, score) is not None for stage in stages))
    return next(measured, "acc1_percent")


def number(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number of the metrics, or None where there is none under this name."""
    value = metrics.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def comparison_rows(stages: list[Stage], has_noise: bool = False) -> list[list[str]]:
    """Return one row per measure: its name, then one cell per stage, each compared with the dense network.

    Args:
        stages: to set side by side.
        has_noise: the clock was noisy, so that times are not compared.
    """
    dense = next((stage for stage in stages if stage.name == "dense"), None)
    return [
        [
            title,
            *(
                _cell(measure, getattr(stage, measure), getattr(dense, measure, None), stage, has_noise)
                for stage in stages
            ),
        ]
        for measure, title in MEASURES.items()
        if any(getattr(stage, measure) is not None for stage in stages)
    ]


def _cell(measure: str, value: float | None, dense: float | None, stage: Stage, has_noise: bool) -> str:
    if value is None:
        is_same = stage.name in ("tuned", "finetuned") and measure in _TIMES
        return "as pruned" if is_same else "-"
    text = format_measure(measure, value)
    if stage.name == "dense" or not dense:
        return text
    if has_noise and measure in _TIMES:
        return f"{text} (noisy clock)"
    if measure.startswith("acc"):
        return f"{text} ({value - dense:+.2f})"
    if "perplexity" in measure:
        return f"{text} ({value / dense:.3f} times)"
    return f"{text} ({100 * value / dense:.0f} %)"


def format_measure(measure: str, value: float) -> str:
    """Write a number of `MEASURES` with three or four significant digits and its SI prefix."""
    if measure.startswith("acc") or "perplexity" in measure:
        return f"{value:.2f}" if value < 1e4 else format_count(value)
    if measure == "latency_ms":
        return f"{value:#.3g}" if value < 100 else f"{value:.0f}"
    return format_count(value)


def format_share(value: float, digits: int = 1) -> str:
    """Write a share in [0, 1] as percent."""
    return f"{100 * value:.{digits}f} %"


def format_count(value: float) -> str:
    """Write a count with an SI prefix, as 4.09 G, 25.6 M or 812."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 would otherwise come out as 1000.0 k.
        if abs(value) >= 0.9995 * size:
            return f"{value / size:#.3g} {prefix}".replace(". ", " ")
    return f"{value:.0f}"


def counted(number: float, words: str) -> str:
    """Write a number of things, as 1 seed or 1,024 calibration samples."""
    return f"{number:,.0f} {words}{'' if number == 1 else 's'}"


def format_tick(value: float) -> str:
    """Write a number beside an axis: milliseconds may lie between whole ones."""
    return f"{value:g}" if abs(value) < 1e3 else format_count(value)


def format_seconds(value: float) -> str:
    """Write a duration as 0.42 s, 12.3 s or 3 min 20 s."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
