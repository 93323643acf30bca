"""What was asked of a run, and what was done: data, samples, rule, recipes, command, machine, code, seeds?"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snp.report.choice import better_stage, choice_of
from snp.report.document import Code, Table, Text
from snp.report.outcome import target_words
from snp.report.record import Record
from snp.report.stages import counted, format_count, format_seconds, format_share, number

__all__ = ["asked", "next_steps", "resources", "settings_table", "too_many_asked"]

_TIMES = {
    "calibrate": "calibrate",
    "forward": "the same pass without measuring",
    "sensitivity": "sensitivity of the output",
    "latency": "layer times",
    "multiples": "times of layers at multiples",
    "plan": "plan",
    "prune": "prune and fit",
    "tune": "tune without labels",
    "finetune": "fine-tune",
}


def asked(record: Record) -> Table | None:
    """Two columns: what, and which."""
    rows = [[title, text] for title, text in _rows(record) if text]
    return Table(("", ""), rows, words=(0, 1)) if rows else None


def _rows(record: Record) -> Iterator[tuple[str, str | None]]:
    facts, config = record.facts, record.facts.get("config") or {}
    yield "network", f"{record.model}; {facts['weights']}" if facts.get("weights") else record.model
    yield "target", target_words(record) if record.target else None
    yield "rule", f"{record.rule} (ordering / cut)" if record.settings else None
    yield "allocation", _tilt(number(record.settings, "tilted"))
    yield "data", _data(facts.get("data") or {})
    yield "calibration", _calibration(record)
    yield "tuning without labels", _tuning(record)
    for name, title in (("dense", "dense training"), ("finetune", "fine-tuning")):
        is_done = name != "dense" or re.search(
            "is trained first|was trained before", facts.get("weights") or "is trained first"
        )
        yield title, _recipe(config.get(name) or {}) if is_done else None
    choice = choice_of(record.metrics)
    yield "reported and exported", f"{choice.stage}; {choice.reason}" if choice else None
    own = record.settings.get("seed", record.seed)
    beside = "" if own == record.seed else f"; of the prune {own}"
    yield "seed", None if record.seed is None else f"{record.seed}{beside}"
    yield "command", f"`{facts['command']}`" if facts.get("command") else None
    yield "started", facts.get("started")
    yield "code", f"commit `{facts['commit']}`" if facts.get("commit") else None
    yield "machine", _machine(facts)
    yield "versions", ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())


def _tilt(tilt: float | None) -> str | None:
    if not tilt:
        return None
    first, last = math.exp(-tilt), math.exp(tilt)
    return f"damages count {first:.2f} times at the first group, {last:.2f} times at the last, as held-back samples say"


def _data(data: Mapping[str, Any]) -> str | None:
    if not data.get("name"):
        return None
    kind = "window" if data.get("holds") == "text" else "image"
    counts = [counted(data[part], f"{part} {kind}") for part in ("train", "val", "test") if data.get(part) is not None]
    context = f"; {data['context']} tokens each" if data.get("context") else ""
    return f"{data['name']}: {', '.join(counts)}{context}" if counts else str(data["name"])


def _calibration(record: Record) -> str | None:
    samples, fitted = (number(record.metrics, name) for name in ("calibration/samples", "prune/fitted_samples"))
    if samples is None:
        return None
    words = f"{samples:,.0f} of the training part"
    train = (record.facts.get("data") or {}).get("train")
    words += f" ({train - samples:,.0f} left out)" if train is not None else ""
    words += ", which has no more" if too_many_asked(record) else ""
    if repeats := number(record.metrics, "calibration/repeats"):
        words += f", {repeats:,.0f} more drawn that repeat one of them"
    if record.metrics.get("calibration/mirrored"):
        words += ", each mirrored, too"
    if fitted:
        words += f"; the fit saw {fitted:,.0f}"
    return words + ("; moments of an earlier run" if record.metrics.get("calibration/reused") else "")


def too_many_asked(record: Record) -> bool:
    """Had the training part fewer calibration samples than were asked for?"""
    asked = ((record.facts.get("config") or {}).get("calibration") or {}).get("samples")
    drawn = number(record.metrics, "calibration/drawn")
    return asked is not None and drawn is not None and drawn < asked


def _tuning(record: Record) -> str | None:
    epochs, kept, tuned, held = (
        number(record.metrics, f"tune/{name}") for name in ("epochs", "epoch", "samples", "held_back")
    )
    if epochs is None or tuned is None or held is None:
        return None
    before, after = (number(record.metrics, f"tune/distance_{name}") for name in ("before", "after"))
    words = f"{counted(epochs, 'epoch')} over {counted(tuned, 'calibration sample')}, {_steps(record)}"
    words += f"; {held:,.0f} held back chose epoch {kept:.0f}"
    return words + ("" if before is None or after is None else f" (distance to dense {before:.3g} to {after:.3g})")


def _steps(record: Record) -> str:
    """Of tuning, at the peak of their rate in the end: where they were too large it is smaller than asked for."""
    found = number(record.metrics, "tune/rate")
    rate = float(record.settings["tune_rate"]) if found is None else found
    return f"{record.metrics.get('tune/optimizer', 'sgd')} at {rate:g}"  # runs that do not say it had no other


def _recipe(recipe: Mapping[str, Any]) -> str | None:
    epochs = recipe.get("epochs")
    if epochs is None:
        return None
    if epochs == 0:
        return "none"
    words = [counted(epochs, "epoch"), f"{recipe.get('optimizer')} at {recipe.get('learning_rate'):g}"]
    words += [f"{recipe.get('schedule')} schedule", f"weight decay {recipe.get('weight_decay'):g}"]
    if recipe.get("label_smoothing"):
        words.append(f"label smoothing {recipe['label_smoothing']:g}")
    if recipe.get("distil"):
        words.append(f"{format_share(recipe['distil'], 0)} of the loss by the dense network")
    return ", ".join(words)


def _machine(facts: Mapping[str, Any]) -> str | None:
    machine = facts.get("machine") or {}
    parts = [
        machine.get("gpu"),
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
    ]
    parts += [f"{machine['memory_gib']:g} GiB" if machine.get("memory_gib") else None, machine.get("system")]
    if (count := facts.get("processes", 1)) > 1:
        parts.append(f"{count} processes")
    return ", ".join(str(part) for part in parts if part) or None


def resources(record: Record) -> tuple[Table | Text, ...]:
    """Time of every stage, the most memory, and what the self-check found."""
    metrics = record.metrics
    times = {title: number(metrics, f"time/{name}_s") for name, title in _TIMES.items()}
    rows = [[title, format_seconds(seconds)] for title, seconds in times.items() if seconds is not None]
    for name, title in (("peak_bytes", "most main memory"), ("peak_gpu_bytes", "most GPU memory")):
        if (held := number(metrics, f"memory/{name}")) is not None:
            rows.append([title, f"{held / 2**30:.2f} GiB"])
    check = number(metrics, "prune/self_check")
    text = (
        ()
        if check is None
        else (
            Text(
                f"Self-check: the small network and the dense one with its units masked differ by {check:.1e} of the "
                "largest output."
            ),
        )
    )
    return ((Table(("stage", "time or size"), rows),) if rows else ()) + text


def next_steps(record: Record) -> tuple[Text | Code, ...]:
    """Load, export, repeat, compare."""
    if not record.groups:
        return ()
    folder, best = Path(record.folder), better_stage(record.metrics) or "pruned"
    weights = "" if best == "pruned" else f', weights="{best}"'
    load = "import snp\n\n" + f'small = snp.load("{folder}"{weights})  # a plain nn.Module, in evaluation mode'
    if record.plan.get("recipe") is None:
        load = load.replace('")', '", model=dense)')
    typed = shlex.quote(str(folder))
    files = "        # ONNX, torch.export" if record.reads_text else " --int8        # ONNX, torch.export, int8"
    lines = [f"snp export {typed}{files}"]
    lines += [str(record.facts["command"]) + "        # the same run again"] if record.facts.get("command") else []
    lines += [f"snp compare {typed} OTHER_RUN --out compare.html"]
    return Text("Load the network in Python:"), Code(load), Text("Export, repeat and compare:"), Code("\n".join(lines))


def settings_table(record: Record) -> Table | None:
    """Every setting of the prune, with everything automatic decided, and the versions it was decided with."""
    rows = [[f"`{name}`", f"`{value}`"] for name, value in record.settings.items()]
    rows += [[f"{name} version", f"`{value}`"] for name, value in (record.plan.get("versions") or {}).items()]
    size = sum(path.stat().st_size for path in record.folder.glob("*.safetensors"))
    rows += [["weights and moments in the folder", f"{format_count(size)}B"]] if size else []
    return Table(("setting", "value"), rows, folded="All settings of the prune", words=(0, 1)) if rows else None
