"""Where in a nest of arguments or outputs is every value?  By keys where its nodes have some, else by numbers.

PyTorch knows the keys of tuples, lists, mappings and registered dataclasses. Classes that others register may come
without (the outputs of diffusers do), and PyTorch's own functions refuse to name what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils import _pytree as pytree

__all__ = ["mapped_with_places", "placed"]


def placed(nest: Any) -> list[tuple[str, Any]]:
    """Every value with its place, such as ``[0]['grid']``, in the order of ``tree_leaves``; its own is ``""``."""
    found = []
    for path, value in pytree.tree_flatten_with_path(nest, is_leaf=_has_no_keys)[0]:
        place = pytree.keystr(path)
        if not _has_no_keys(value):
            found.append((place, value))
            continue
        entries, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
        keys = list(value) if isinstance(value, Mapping) else range(len(entries))
        assert len(keys) == len(entries), (type(value), len(keys), len(entries))
        for key, entry in zip(keys, entries, strict=True):
            found += [(f"{place}[{key!r}]{inner}", leaf) for inner, leaf in placed(entry)]
    return found


def mapped_with_places(change: Callable[..., Any], nest: Any, *others: Any) -> Any:
    """The same nest of ``change(place, value, *values of the others there)``.

    Args:
        change: gets the place as :func:`placed` has it.
        nest: gives the places.
        others: nests of the same form; mappings may name their entries in another order.
    """
    values, form = pytree.tree_flatten(nest)
    columns = [values, *(form.flatten_up_to(other) for other in others)]
    places = [place for place, _ in placed(nest)]
    return pytree.tree_unflatten([change(place, *row) for place, *row in zip(places, *columns, strict=True)], form)


def _has_no_keys(node: Any) -> bool:
    """Is it of a class that was registered without the keys of its entries?"""
    known = pytree.SUPPORTED_NODES.get(type(node))
    return known is not None and known.flatten_with_keys_fn is None
