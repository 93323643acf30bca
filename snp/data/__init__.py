"""What are the samples?

A data set is one file in this folder with a subclass of `snp.data.loading.SampleData`, and one file of the same stem in
conf/data; other packages bring such classes as entry points of `snp.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snp.core.registry import Registry

__all__ = ["data_sets", "other"]

_DATA = Registry(
    "data.name",
    "snp.data",
    others={
        "cifar10": "snp.data.cifar10:Cifar10",
        "digit_pairs": "snp.data.digit_pairs:DigitPairs",
        "digits": "snp.data.digits:Digits",
        "image_folder": "snp.data.image_folder:ImageFolder",
        "imagenet": "snp.data.imagenet:ImageNet",
        "text": "snp.data.text:TextData",
        "wikitext2": "snp.data.wikitext2:WikiText2",
    },
)


def data_sets() -> list[str]:
    """Names of the data sets: those of this folder, and entry points of ``snp.data``."""
    return _DATA.names()


def other(name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """A data set by its name.

    Args:
        name: one of :func:`data_sets`.
        arguments: of its class.

    Raises:
        ValueError: there is no such data set, or it refuses an argument.
    """
    return _DATA.load(name)(**(arguments or {}))
