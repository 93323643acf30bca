"""What are the samples?

A data set is one file in this folder with a subclass of `snp.data.loading.SampleData`, and one file of the same stem in
conf/data; other packages bring such classes as entry points of `snp.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snp.core.registry import Registry
from snp.core.values import refuse_unknown_arguments

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

_CLASS = "a data set is a subclass of snp.data.base.ImageData, with num_classes, samples and transform"


def data_sets() -> list[str]:
    """Names of the data sets: those of this folder, and entry points of ``snp.data``."""
    return _DATA.names()


def other(name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """A data set by its name.

    Args:
        name: one of :func:`data_sets`.
        arguments: of its class.

    Raises:
        ValueError: there is no such data set, it is none, or it refuses an argument.
    """
    from snp.data.loading import SampleData  # Lightning takes seconds to import, and names are listed without it

    made, given = _DATA.load(name), {} if arguments is None else arguments
    # Lightning's metaclass does not ask for what is abstract.
    if lacking := [part for part in dir(made) if getattr(getattr(made, part, None), "__isabstractmethod__", False)]:
        raise ValueError(f"data.name={name}: {made.__name__} has no {', '.join(lacking)}; {_CLASS}")
    if not callable(made) or (isinstance(made, type) and not issubclass(made, SampleData)):
        raise ValueError(f"data.name={name}: {getattr(made, '__name__', made)} is no data set; {_CLASS}")
    if not isinstance(given, Mapping):
        raise ValueError(f"data.arguments must be a mapping of its arguments, found {given!r}")
    refuse_unknown_arguments(made, given, "data.arguments")
    found = made(**given)
    if not isinstance(found, SampleData):
        raise ValueError(f"data.name={name}: it gives a {type(found).__name__}, which is no data set; {_CLASS}")
    return found
