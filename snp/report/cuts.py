"""What was cut, why there, and what could not be cut?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snp.report.document import Cell, Listing, Table, Text
from snp.report.record import Layer, Record
from snp.report.stages import format_count

__all__ = ["cut_summary", "frozen_table", "group_table", "why_there"]

MAX_FROZEN = 20
MAX_OPEN = 16  # groups in a table that is not folded


def cut_summary(record: Record) -> Text:
    """How many units stay."""
    groups = record.groups
    num_kept, num_units = sum(len(group["kept"]) for group in groups), sum(group["num_units"] for group in groups)
    return Text(f"{num_kept} of {num_units} units stay, in {len(groups)} groups. {why_there(record)}{_gone(record)}")


def _gone(record: Record) -> str:
    """Which blocks went as a whole, and why."""
    names = [f"`{block['name']}`" for block in record.plan.get("removed_blocks") or []]
    return f" Removed as whole blocks, at the same price: {', '.join(names)}." if names else ""


def why_there(record: Record) -> str:
    """The rule that put the cut where it is."""
    settings, level = record.settings, record.settings.get("level")
    if settings.get("planner", "snp") != "snp":
        return f"The planner `{settings['planner']}` chose them."
    words = {
        "variance": "In every group the first units in the order `{ordering}` stay that hold {level} of its variance.",
        "output": (
            "In every group units go, in the order `{ordering}`, until the next one would do more damage at the output "
            "than it saves, at the same price for all groups; where the first one would, the group stays whole."
        ),
        "uniform": "Every group keeps {level} of its units, the first in the order `{ordering}`.",
    }.get(str(settings.get("cut")))
    if words is None or level is None:
        return ""
    rounding = settings.get("round_to", 1)
    wide = settings.get("round_from") or 16 * (rounding or 1)
    is_rounded = bool(rounding and rounding > 1) and any(group["num_units"] >= wide for group in record.groups)
    more = f" Groups of {wide} units or more are rounded to multiples of {rounding}." if is_rounded else ""
    return words.format(ordering=settings.get("ordering"), level=f"{100 * level:.1f} %") + more


def group_table(record: Record) -> Table:
    """One row per group: units, shapes and costs of its layers before and after, and what the rule saw at the cut."""
    has_layers, has_damage = bool(record.layers), bool(record.damage)
    header = ["group", "units", "kept", "variance kept"]
    header += ["error at the cut (nats)"] if has_damage else []
    header += ["MACs of its layers", "shape of its weight"] if has_layers else []
    rows = [_row(record, group, has_layers, has_damage) for group in record.groups]
    return Table(tuple(header), rows, folded="All groups" if len(rows) > MAX_OPEN else None, sorts=True)


def _row(record: Record, group: Mapping[str, Any], has_layers: bool, has_damage: bool) -> list[Cell | str]:
    num_kept, num_units = len(group["kept"]), group["num_units"]
    variance = group.get("kept_variance")
    row: list[Cell | str] = [
        f"`{group['name']}`",
        str(num_units),
        Cell(str(num_kept), num_kept, num_kept / num_units),
        "-" if variance is None else Cell(f"{100 * variance:.1f} %", variance),
    ]
    if has_damage:
        damage = dict(record.damage.get(group["name"], ())).get(num_kept)
        row.append("-" if damage is None else Cell(f"{damage:.2e}", damage))
    if has_layers:
        names = {member["tensor"] for role in ("producers", "consumers") for member in group.get(role, ())}
        layers = [record.layers[name] for name in names if name in record.layers]
        before, after = sum(layer.dense_macs for layer in layers), sum(layer.pruned_macs for layer in layers)
        first = _first_layer(record, group)
        row += [Cell(f"{format_count(before)} → {format_count(after)}", after)]
        row += [f"{first.dense_shape} → {first.pruned_shape}" if first else "-"]
    return row


def _first_layer(record: Record, group: Mapping[str, Any]) -> Layer | None:
    names = [member["tensor"] for member in group.get("producers", ())]
    return next((record.layers[name] for name in names if name in record.layers), None)


def frozen_table(record: Record) -> tuple[Table | Listing, ...]:
    """Layers that no cut could reach, and why."""
    frozen = record.plan.get("frozen") or []
    if not frozen:
        return ()
    rows = [[f"`{item['name']}`", str(item["reason"])] for item in frozen[:MAX_FROZEN]]
    table = Table(("layer", "reason"), rows, words=(0, 1))
    if len(frozen) <= MAX_FROZEN:
        return (table,)
    return table, Listing((f"and {len(frozen) - MAX_FROZEN} more, listed in `plan.json`",))
