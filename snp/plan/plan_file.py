"""What may a plan's file hold, and is it what was written?  A schema, and a hash of the content in the file itself."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

__all__ = ["FORMAT", "content_hash", "read_text", "write_text"]

FORMAT = 1


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Slice(_Strict):
    tensor: str
    dim: NonNegativeInt
    num_blocks: PositiveInt = 1
    index: list[list[NonNegativeInt]] | None = None
    start: NonNegativeInt | None = None
    stride: int | None = None
    width: PositiveInt | None = None


class _Count(_Strict):
    module: str
    attribute: str
    position: NonNegativeInt | None
    width: PositiveInt


class _Group(_Strict):
    name: str
    kind: str = "ffn"
    num_units: PositiveInt
    num_partitions: PositiveInt = 1
    num_kept: PositiveInt | None = None
    kept_variance: float | None = Field(None, ge=-1e-6, le=1 + 1e-6)
    kept: list[NonNegativeInt]
    is_stream: bool
    producers: list[_Slice]
    consumers: list[_Slice]
    others: list[_Slice]
    counts: list[_Count] = []


class _Attention(_Strict):
    module: str
    num_heads: PositiveInt
    implicit_scale: bool
    is_rotary: bool = False
    query: _Slice
    key: _Slice
    value: _Slice


class _Block(_Strict):
    name: str
    writers: list[str]
    num_inputs: PositiveInt = 1
    num_outputs: PositiveInt | None = None
    fixed_macs: int = 0


class _Frozen(_Strict):
    name: str
    reason: str


class _Plan(_Strict):
    format: int
    recipe: dict[str, Any] | None
    inputs: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any]
    versions: dict[str, str]
    macs: dict[str, NonNegativeInt]
    params: dict[str, NonNegativeInt]
    latency: dict[str, float | None] = {}
    groups: list[_Group]
    removed_blocks: list[_Block] = []
    attention: list[_Attention] = []
    frozen: list[_Frozen]
    content: str | None = None


def content_hash(plain: Any) -> str:
    """SHA-256 of JSON values, independent of the order of keys and of line breaks."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_text(plain: dict[str, Any]) -> str:
    """Text of ``plan.json``: one line per list of numbers, the hash of all else at its end."""
    text = json.dumps(plain | {"content": content_hash(plain)}, indent=1)
    # Only lists that json.dumps broke over lines: strings hold no raw line breaks, so they stay as they are.
    return re.sub(r"\[\n[\d\s,]*\]", lambda match: "[" + " ".join(match.group()[1:-1].split()) + "]", text) + "\n"


def read_text(text: str) -> dict[str, Any]:
    """The JSON values of a plan.

    Raises:
        ValueError: the text is no plan, or not the one that was written.
    """
    plain = json.loads(text)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        found = plain.get("format") if isinstance(plain, dict) else type(plain).__name__
        raise ValueError(f"its format is {found}, this version of snp reads {FORMAT}")
    try:
        _Plan.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None
    written = plain.pop("content", None)  # plans of earlier versions have none
    if written is not None and written != content_hash(plain):
        raise ValueError("its content is not what was written; take the file as the run left it")
    return plain
