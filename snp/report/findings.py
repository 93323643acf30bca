"""What must a reader know before all else?  Losses, times that were not gained, and numbers that mean little."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from snp.core.structures import blocks_beside, may_ask_for_blocks
from snp.plan.table import unreached_sentence
from snp.report.asked import too_many_asked
from snp.report.choice import better_stage
from snp.report.intervals import wilson
from snp.report.record import Record
from snp.report.speed import is_noisy
from snp.report.stages import LOWER_IS_BETTER, counted, format_share, number, score_of

__all__ = ["findings"]

# Accuracy points and times the perplexity that nobody overlooks.
LOST_POINTS, LOST_FACTOR = 1.0, 1.05
GAINED_SHARE = 0.95  # of the dense time: what is above has not gained any
MISSED_TIME = 0.01  # of the dense time, beyond what was asked for: less is not seen in whole percents
DEAR_SHARE = 0.6  # of the multiply-accumulates beside the share of the time: what is below was dear
WHOLE_SHARE = 0.3  # of the multiply-accumulates in layers that nothing was cut of
FEW_SAMPLES = 128
WEAK_SELF_CHECK = 1e-4
_PLAIN_REASONS = ("an output of the network",)


def findings(record: Record) -> tuple[str, ...]:
    """Sentences, the gravest first; each says what to try."""
    return tuple(sentence for look in _LOOKS for sentence in look(record))


def _not_finished(record: Record) -> Iterator[str]:
    asked = ((record.facts.get("config") or {}).get("finetune") or {}).get("epochs")
    is_trained = not asked or any(name.startswith("finetuned/") for name in record.metrics)
    if reached := record.reached or ("" if is_trained else "the small network before fine-tuning"):
        yield (
            f"This run is not finished: it got as far as {reached}. Its command goes on from there, started again for "
            "the same folder (`hydra.run.dir=FOLDER`, or `hydra.sweep.dir=FOLDER` of a sweep)."
        )


def _lost(record: Record) -> Iterator[str]:
    metrics, score = record.metrics, score_of(record.metrics)
    best = better_stage(metrics)
    before, after = number(metrics, f"dense/{score}"), number(metrics, f"{best}/{score}")
    if before is None or after is None:
        return
    advice = "Ask for less (a larger target), show more calibration samples, or fine-tune for longer."
    if score in LOWER_IS_BETTER:
        if after > LOST_FACTOR * before:
            yield f"Perplexity rose from {before:.2f} to {after:.2f} ({after / before:.2f} times). {advice}"
    elif before - after > LOST_POINTS:
        yield f"Accuracy fell by {before - after:.1f} points, from {before:.2f} to {after:.2f} %. {advice}"


def _worse_by_training(record: Record) -> Iterator[str]:
    metrics, score = record.metrics, score_of(record.metrics)
    best = better_stage(metrics)
    is_judged = all(number(metrics, f"{stage}/val_{score}") is not None for stage in (best, "finetuned"))
    before, after = (number(metrics, f"{stage}/{'val_' if is_judged else ''}{score}") for stage in (best, "finetuned"))
    judges = number(metrics, "val/samples")
    seen = f" on the {f'{judges:,.0f} ' if judges else ''}validation samples that decide" if is_judged else ""
    if before is not None and after is not None and best != "finetuned":
        yield (
            f"Fine-tuning made it worse{seen}: {before:.2f} became {after:.2f}. The {best} network is the one reported "
            "and exported. Try a smaller `finetune.learning_rate`, or leave it out with `finetune.epochs=0`."
        )


def _doubtful_data(record: Record) -> Iterator[str]:
    yield from (record.facts.get("data") or {}).get("doubts") or ()


def _not_tuned(record: Record) -> Iterator[str]:
    epochs, kept = (number(record.metrics, f"tune/{name}") for name in ("epochs", "epoch"))
    if epochs and kept == 0:
        yield (
            "Tuning came no nearer to the dense network on the samples held back, or not by more than chance, so the "
            "weights of the closed form stay. Try a smaller `prune.tune_rate`, or more `calibration.samples`."
        )


def _no_time(record: Record) -> Iterator[str]:
    share, low, high = (number(record.metrics, f"latency/measured_share{part}") for part in ("", "_low", "_high"))
    if share is None or low is None or high is None:
        return
    kind, asked = record.target or ("", 0.0)
    if is_noisy(record.metrics):
        yield (
            f"The clock was noisy: half of the passes took between {format_share(low, 0)} and {format_share(high, 0)} "
            "of the dense network's. Times of this run mean little; measure again on an idle machine."
        )
    elif kind == "latency" and low > asked + MISSED_TIME:
        predicted = number(record.metrics, "prune/reached")
        yield (
            f"The target was missed by the clock: a pass takes {format_share(share, 0)} of the dense one's where "
            f"{format_share(asked, 0)} were asked for"
            + (f" and {format_share(predicted, 0)} predicted from the times of layers" if predicted else "")
            + ". Ask for less time (a smaller `prune.target_latency`), or try again on an idle machine."
        )
    elif share > GAINED_SHARE and kind != "latency":
        yield (
            f"No time was gained: a pass takes {format_share(share, 0)} of the dense one's. Small layers do not get "
            "faster with fewer units; ask for time itself (`prune.target_latency`) or for widths that this device "
            "likes (`prune.round_to=auto`)."
        )


def _dear_time(record: Record) -> Iterator[str]:
    dense, pruned = (number(record.metrics, f"{stage}/macs") for stage in ("dense", "pruned"))
    kind, asked = record.target or ("", 0.0)
    structures = record.settings.get("structures") or ("ffn",)
    could_go = may_ask_for_blocks(structures, bool(record.settings.get("streams"))) and _weighs(record.settings)
    if kind == "latency" and dense and pruned is not None and could_go and pruned / dense < DEAR_SHARE * asked:
        yield (
            f"{format_share(asked, 0)} of the time left {format_share(pruned / dense, 0)} of the multiply-accumulates: "
            "narrow layers save little of it. Where there are shortcuts, whole blocks save more for what they cost: "
            f"`{blocks_beside(structures)}`."
        )


def _weighs(settings: Mapping[str, Any]) -> bool:
    """Were blocks weighed against units, had they been asked for?"""
    usual = {"planner": "snp", "cut": "output", "calibration": "sequential", "trials": True, "reconstruct": True}
    return all(settings.get(name, value) in (value, "tuned") for name, value in usual.items())


def _missed(record: Record) -> Iterator[str]:
    reached, target = number(record.metrics, "prune/reached"), record.target
    if reached is not None and target is not None and reached > target[1] * 1.001:
        yield f"The target was missed: {format_share(reached)} are left where {format_share(target[1])} were asked for."


def _left_whole(record: Record) -> Iterator[str]:
    total = sum(layer.dense_macs for layer in record.layers.values())
    whole = [layer.dense_macs for layer in record.layers.values() if layer.is_whole]
    frozen = [item for item in record.plan.get("frozen") or [] if item["reason"] not in _PLAIN_REASONS]
    if frozen and total and sum(whole) > WHOLE_SHARE * total:
        yield (
            f"{format_share(sum(whole) / total, 0)} of the dense network's multiply-accumulates are in {len(whole)} "
            "layers that lost nothing; some were left whole where units were chosen, others could not be cut, for the "
            "reasons under “What could not be cut”."
        )


def _few_samples(record: Record) -> Iterator[str]:
    samples, fitted = (number(record.metrics, name) for name in ("calibration/samples", "prune/fitted_samples"))
    if samples is not None and samples < FEW_SAMPLES:
        yield (
            f"Only {counted(samples, 'calibration sample')}: what was cut and fitted on them may not hold for others. "
            + ("The training part has no more." if too_many_asked(record) else "Raise `calibration.samples`.")
        )
    # Each process fits on its own share; what tuning is judged by is not fitted on.
    held = number(record.metrics, "tune/held_back") or 0
    if (
        samples
        and samples >= FEW_SAMPLES
        and fitted
        and record.facts.get("processes", 1) == 1
        and fitted + held < samples
    ):
        yield (
            f"The fit saw {fitted:.0f} of the {samples:.0f} calibration samples, as many as `prune.memory_gib` holds. "
            "Raise it where there is memory."
        )


def _unreached(record: Record) -> Iterator[str]:
    if sentence := unreached_sentence(record.settings.get("unreached") or ()):
        yield sentence


def _few_tests(record: Record) -> Iterator[str]:
    metrics, tested = record.metrics, number(record.metrics, "test/samples")
    best, dense = better_stage(metrics), number(metrics, "dense/acc1_percent")
    after = number(metrics, f"{best}/acc1_percent")
    if not tested or after is None or dense is None:
        return
    low, high = wilson(after, int(tested))
    if (high - low) / 2 > max(LOST_POINTS, abs(dense - after)):
        yield (
            f"Only {counted(tested, 'test sample')}: the accuracy is known to ±{(high - low) / 2:.1f} points, which is "
            f"more than the difference of {after - dense:+.1f} points. Rank nothing by it."
        )


def _inexact(record: Record) -> Iterator[str]:
    check = number(record.metrics, "prune/self_check")
    if check is not None and check > WEAK_SELF_CHECK:
        yield f"The self-check found a difference of {check:.1e} between the small network and the masked dense one."


_LOOKS: tuple[Callable[[Record], Iterator[str]], ...] = (
    _not_finished, _lost, _doubtful_data, _not_tuned, _worse_by_training, _missed, _no_time, _dear_time, _left_whole,
    _few_samples, _unreached, _few_tests, _inexact,
)  # fmt: skip
