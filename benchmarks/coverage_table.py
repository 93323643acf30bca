"""How is the coverage shown?  One line per family, and the counts of both libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from snp.plan.table import markdown_table

__all__ = ["last_line", "write_table"]

HEADER = """# Coverage

Every model file of timm and every classification file of torchvision, by its smallest variant and the smallest square
image that it takes; of torchvision's other tasks, transformers, segmentation-models-pytorch and diffusers the networks
listed in `benchmarks/coverage_suites`, tiny where they come from a configuration; and some of our own, of kinds that no
library has. All have random weights in every tensor.

A network *passes* when every group found passes the audit (the readers' columns of some units zero, all else that these
units own replaced at random: the output stays), it can be cut to 70 % of its MACs or, where less than 30 % can go, by
nine tenths of what can, and the small one computes what the masked dense one computes, costs what the plan says, runs
forward and backward in training mode, and comes back from disk to the last bit. It is *refused* when the library says
why it cannot; anything else is *wrong*.

MACs: share inside groups that may be cut, without and with residual streams, `prune.structures` as it comes (no
dimensions or heads of attention), and with `prune.structures=[ffn,vo,qk,heads]` and streams; the groups which that
adds pass the same audit and a trial cut. Groups: found by default (residual streams among them); all were audited,
*idle* are those whose units do not move the output of this random network, so that their audit proves nothing.
Torch-Pruning 1.6.1: the same networks, see below.
"""
OUTSIDE = """The ten reasons that keep most multiply-accumulates in layers of which no group has a part (neither what
they compute nor what they read is cut), as a mean over all networks that were analysed, each counted alike."""
PEER = """## Torch-Pruning 1.6.1 on the same networks

It is given what we are given, the network and an input (no numbers of heads), and asked to cut a third of every
layer's channels but the classifier's. `passed`: its dependency graph builds, no group fails the same audit, and the
cut network runs. `refused`: an exception in any of these, or the time is up. `wrong`: it runs, and the output moves
with units of a group whose readers are zero: groups through a LayerNorm do, because the rest is normalised with them.
That a cut network runs does not say that it computes the right thing; that was not compared.
"""


def _counts(results: Iterable[Mapping[str, Any]]) -> tuple[int, int, int, int]:
    status = Counter(result["status"] for result in results)
    return status["passed"], status["refused"], status["wrong"], sum(status.values())


def last_line(results: Iterable[Mapping[str, Any]]) -> str:
    """``passed P refused R wrong W of N``."""
    return "passed {} refused {} wrong {} of {}".format(*_counts(results))


def _reach(results: Iterable[Mapping[str, Any]]) -> str:
    """How many reached 70 %, and the median share inside groups; refused networks have none."""
    found = list(results)
    shares = [result.get("prunable_with_streams", 0.0) for result in found]
    whole = [result.get("prunable_with_attention", result.get("prunable_with_streams", 0.0)) for result in found]
    reached = sum(result["status"] == "passed" and result.get("left", 1.0) < 0.701 for result in found)
    share, with_attention = _share(median(shares)), _share(median(whole))
    return (
        f"{reached} of {len(found)} were cut to 70 %; median share of the MACs inside groups {share} as structures "
        f"come, {with_attention} with those of attention."
    )


def _reason(text: str) -> str:
    """A reason without the names of layers, numbers and overloads in it."""
    text = re.sub(r"^a trial cut failed: .*", "a trial cut failed", text)
    text = re.sub(r"(aten|transformers)\.([a-z_0-9]+)\.[A-Za-z_]+", r"\1.\2", text)
    return re.sub(r"[A-Za-z_0-9.]+\.(weight|bias|[a-z_]*proj)\b", "a weight", text)


def _outside(results: Iterable[Mapping[str, Any]], key: str = "outside") -> list[str]:
    """What keeps most MACs outside all groups, as a table; what was not found again with attention is as without."""
    found = [{**result, "outside": result.get(key, result["outside"])} for result in results if "outside" in result]
    total: dict[str, list[float]] = defaultdict(list)
    for result in found:
        shares: dict[str, float] = defaultdict(float)
        for reason, share in result["outside"].items():
            shares[_reason(reason)] += share
        for reason, share in shares.items():
            total[reason].append(share)
    ranked = sorted(total.items(), key=lambda item: -sum(item[1]))[:10]
    rows = [(r, f"{100 * sum(s) / len(found):.1f} %", str(sum(x > 0.001 for x in s))) for r, s in ranked]
    return markdown_table(["reason", "of all MACs, mean", "networks"], rows, is_padded=False)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _row(result: Mapping[str, Any], peer: Mapping[str, Any] | None) -> list[str]:
    groups = f"{result['groups']} ({result['streams']})" if "groups" in result else ""
    proven = f"{result['audited'] - result['without_effect']} of {result['audited']}" if "audited" in result else ""
    left = _share(result.get("left")) + (" with streams" if result.get("used_streams") and "left" in result else "")
    kinds = ("prunable", "prunable_with_streams", "prunable_with_attention")
    shares = " / ".join(_share(result[kind]) for kind in kinds if kind in result)
    reason = result["reason"] or _first_frozen(result)
    return [
        result["family"], result.get("variant", ""), str(result.get("size", "")), groups,
        shares, proven, left, result["status"], reason[:220],
        "" if peer is None else f"{peer['status']} {peer['reason'][:80]}",
    ]  # fmt: skip


def _first_frozen(result: Mapping[str, Any]) -> str:
    """What is not cut and why, where much is not."""
    refused = {name: reason for name, reason in result.get("frozen", {}).items() if "trial cut failed" in reason}
    return f"{len(refused)} groups refused by the trial cut" if refused else ""


def _peer_stages(peers: Iterable[Mapping[str, Any]]) -> str:
    known = [peer for peer in peers if "builds" in peer]
    built = [peer for peer in known if peer["builds"]]
    failed = [peer for peer in built if peer["audit_failed"]]
    runs = sum(peer["runs"] for peer in known)
    unaudited = sum(peer["unaudited"] for peer in built)
    return (
        f"{len(known)} were looked at in time, the graph builds for {len(built)}, {runs} run after the cut; "
        f"{sum(len(peer['audit_failed']) for peer in failed)} of {sum(peer['groups'] for peer in built)} groups, in "
        f"{len(failed)} networks, fail the audit, {unaudited} could not be cut in part"
    )


def write_table(results: Mapping[tuple[str, str, str], Mapping[str, Any]], path: Path) -> None:
    """Write the page."""
    columns = ["family", "variant", "px", "groups", "MACs", "audit moved", "MACs left", "result", "reason", "peer"]
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("snp", "torch", "torchvision", "timm"))
    lines = [HEADER, f"`python benchmarks/coverage.py --table docs/coverage.md`; python {platform.python_version()}, "
             f"{versions}.", ""]  # fmt: skip
    libraries = dict.fromkeys(["timm", "torchvision", *(key[1] for key in results)])
    for library in (library for library in libraries if any(key[1] == library for key in results)):
        ours = {key: value for key, value in results.items() if key[:2] == ("snp", library)}
        lines += [f"## {library}: {last_line(ours.values())}", "", _reach(ours.values()), ""]
        rows = (_row(found, results.get(("peer", library, key[2]))) for key, found in sorted(ours.items()))
        lines += [*markdown_table(columns, rows, is_padded=False), ""]
    lines += ["## What stays outside all groups", "", OUTSIDE, ""]
    ours = [value for key, value in results.items() if key[0] == "snp"]
    lines += [*_outside(ours), "", "The same with `prune.structures=[ffn,vo,qk,heads]`:", ""]
    lines += [*_outside(ours, "outside_with_attention"), ""]
    peers = [value for key, value in results.items() if key[0] == "peer"]
    if peers:
        passed, refused, wrong, total = _counts(peers)
        lines += [PEER, f"Passed {passed}, refused {refused}, wrong {wrong} of {total}: {_peer_stages(peers)}.", ""]
    path.write_text("\n".join(lines))
