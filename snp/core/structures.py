"""Which structures of a network may be cut, and which were not asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["blocks_beside", "check_blocks", "check_structures", "decided", "may_ask_for_blocks", "remedies_beside"]

_STRUCTURES = ("ffn", "vo", "qk", "heads", "width", "blocks")


def check_structures(structures: Sequence[str], attention: str) -> None:
    """Are these names that go together?

    Args:
        structures: ``prune.structures``.
        attention: ``prune.attention``.

    Raises:
        ValueError: they are not.
    """
    if "residual" in structures:
        raise ValueError(
            "prune.structures cannot hold residual: LayerNorm divides by the spread of all dimensions of a stream; "
            "width turns such a stream and cuts it, prune.streams=true cuts streams that meet no such norm"
        )
    if unknown := sorted(set(structures) - set(_STRUCTURES)):
        raise ValueError(f"prune.structures may hold {', '.join(_STRUCTURES)}; found {', '.join(unknown)}")
    if attention == "equal" and len({"vo", "qk"} & set(structures)) == 1:
        raise ValueError("prune.attention=equal cuts vo and qk together: name both in prune.structures, or neither")


def decided(structures: Sequence[str], *, weighs_blocks: bool) -> tuple[str, ...]:
    """Names of structures.

    Args:
        structures: ``prune.structures``, names or ``"auto"``.
        weighs_blocks: is the budget one of time, which whole blocks save, and can they be weighed against units?
    """
    if structures == "auto":
        return ("ffn", "blocks") if weighs_blocks else ("ffn",)
    return tuple(structures)


def check_blocks(structures: Sequence[str], needs: Mapping[str, bool]) -> None:
    """Does what blocks are weighed by go with the rest of what is asked for?

    Args:
        structures: ``prune.structures``.
        needs: what that takes, in words -> is it there?

    Raises:
        ValueError: blocks are asked for, and something is not.
    """
    if "blocks" in structures and (missing := [words for words, is_there in needs.items() if not is_there]):
        raise ValueError(
            f"prune.structures with blocks goes with {' and '.join(missing)}: whole blocks are weighed against units "
            "by what trial cuts do to the outputs; leave blocks out, or change that"
        )


def may_ask_for_blocks(structures: Sequence[str], streams: bool) -> bool:
    """Could blocks be asked for beside what is cut?"""
    return not streams and not {"blocks", "width"} & set(structures)


def blocks_beside(structures: Sequence[str]) -> str:
    """The option that asks for blocks beside what is cut already."""
    return f"prune.structures=[{','.join([*structures, 'blocks'])}]"


def remedies_beside(
    streams: bool, structures: Sequence[str], ignore: Sequence[str], *, weighs_blocks: bool = False
) -> tuple[str, ...]:
    """What else could be cut, of what was not asked for, in words.

    Args:
        streams: ``prune.streams``.
        structures: ``prune.structures``, names or ``"auto"``.
        ignore: ``prune.ignore``.
        weighs_blocks: as of :func:`decided`.
    """
    is_auto, others_open = structures == "auto", may_ask_for_blocks(structures, streams)
    unasked = {
        # Time is what blocks save.
        f"let whole blocks go, where there are any ({blocks_beside(structures)})": (
            not is_auto and weighs_blocks and others_open
        ),
        # Nor do blocks go with that, and width cuts what it could.
        "cut residual streams too (prune.streams=true)": others_open,
        "in transformers cut inside attention (prune.structures=[ffn,vo,qk])": is_auto or tuple(structures) == ("ffn",),
        "shorten prune.ignore": bool(ignore),
    }
    return tuple(remedy for remedy, is_open in unasked.items() if is_open)
