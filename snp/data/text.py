"""What is plain text in files, read through the tokenizer that lies beside the model?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from snp.core.values import path_of
from snp.data.loading import Batches, Part, SampleData
from snp.data.refusals import path_given, require_at_least
from snp.data.windows import Windows
from snp.models import huggingface

__all__ = ["TextData", "TextFormat"]

Files = str | Sequence[str]


@dataclass(frozen=True)
class TextFormat:
    """How text reaches the model: the folder of its tokenizer, tokens per window, tokens between windows' starts."""

    tokenizer: str
    context: int
    stride: int


class TextData(SampleData):
    """Language modelling on text files in UTF-8; samples are windows of the model's context length.

    Calibration and fine-tuning use whole windows of `train`, perplexity is over all of `test`.

    Args:
        train: a file, or several that are joined by blank lines.
        test: the same, for the perplexity.
        second: the same, for a second perplexity: what does pruning cost on text of another kind? None for none.
        context: tokens per window, None for as many as the model sees.
        stride: tokens between the starts of two windows of `test`; None for windows that do not overlap.
        batch_size: windows per batch and process.
        num_workers: processes that load windows; 0 is fastest, the text is in memory.
        name: how reports call it.
        val_fraction: see `SampleData`.

    Raises:
        ValueError: a number that makes no sense.
    """

    holds = "text"
    format: TextFormat | None

    def __init__(
        self,
        train: Files | None = None,
        test: Files | None = None,
        second: Files | None = None,
        context: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        name: str = "text",
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__(name=name, batch_size=batch_size, num_workers=num_workers, val_fraction=val_fraction)
        require_at_least(context=(context, 2), stride=(stride, 1))
        given = {"train": train, "test": test, "second": second}
        self.files: dict[str, Files | None] = {part: _paths(files, part) for part, files in given.items()}
        self.context, self.stride = context, stride
        self._tokens: dict[str, Tensor] = {}

    @property
    def requirements(self) -> dict[str, Any]:
        """A language model fits any text."""
        return {}

    @property
    def has_second(self) -> bool:
        """Is there a second text to be scored?"""
        return self.files["second"] is not None

    def source(self, part: str) -> str:
        """How reports call the text of a part."""
        files = self.files[part]
        return ", ".join([files] if isinstance(files, str) else files or ())

    def sources(self) -> dict[str, str]:
        """Which texts calibration and scores are of, for the report."""
        names = {"calibration/text": "train", "test/text": "test", "test/second_text": "second"}
        return {name: text for name, part in names.items() if (text := self.source(part))}

    def configure(self, tokenizer: str, context: int) -> None:
        """Say which model reads.

        Args:
            tokenizer: its folder.
            context: how many tokens it sees at most.

        Raises:
            ValueError: the windows asked for are larger, or the stride is larger than the windows.
        """
        size = self.context or context
        if size > context:
            raise ValueError(f"data.context={size}: the model sees {context} tokens; ask for no more")
        stride = self.stride or size
        if stride > size:
            raise ValueError(f"data.stride={stride}: windows of {size} tokens would leave some out; ask for no more")
        self.format = TextFormat(str(tokenizer), size, stride)
        self.train_set = self.test_set = None
        self._tokens = {}

    def seen(self, part: Part, *, training: bool) -> Windows:
        """Whole windows of the training text, or all of the test text."""
        return self._windows(part, whole_only=part == "train")

    def _windows(self, part: str, *, whole_only: bool) -> Windows:
        """Whole windows beside each other, or windows over all of a text.

        Raises:
            ValueError: there is none.
        """
        assert self.format is not None, "configure() comes before setup() and the loaders"
        context, stride = self.format.context, self.format.stride
        windows = Windows(self.tokens(part), context, context if whole_only else stride, whole_only=whole_only)
        if len(windows) == 0:
            raise ValueError(
                f"data.{part}={self.source(part)}: its {len(self.tokens(part))} tokens do not fill one window of "
                f"{context}; give a longer text, or a smaller data.context"
            )
        return windows

    def second_dataloader(self) -> Batches:
        """Windows of the second text, as those of the test text."""
        return self._exactly_once_loader(self._windows("second", whole_only=False))

    def tokens(self, part: str) -> Tensor:
        """The text of a part ("train", "test" or "second"), read once, shape [L], int64."""
        assert self.format is not None
        if part not in self._tokens:
            self._tokens[part] = huggingface.tokenize(self.format.tokenizer, self.text(part))
        return self._tokens[part]

    def text(self, part: str) -> str:
        """The text of a part.

        Raises:
            ValueError: a file is not named, not there, or not text.
        """
        files = self.files[part]
        if not files:
            raise ValueError(f"data.{part} is not set: give a text file, data.{part}=FILE")
        return "\n\n".join(_read(path, part) for path in ([files] if isinstance(files, str) else files))


def _paths(files: Files | None, part: str) -> Files | None:
    """A file, or several, by their paths as text."""
    if isinstance(files, (list, tuple)):
        return [path_of(path, f"data.{part}") for path in files]
    return path_given(part, files)


def _read(path: str, part: str) -> str:
    try:
        # A mark of the order of bytes at the beginning is no text.
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.{part}={path}: cannot be read as text: {error}; give a file in UTF-8") from error
