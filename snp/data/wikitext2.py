"""What is WikiText-2 (Merity et al. 2016, raw words), from a folder of files or from the hub of Hugging Face?"""

from __future__ import annotations

from pathlib import Path

from snp.data.refusals import path_given
from snp.data.text import Files, TextData

__all__ = ["WikiText2"]

_SPLITS = ("train", "valid", "test")


class WikiText2(TextData):
    """WikiText-2: calibration and fine-tuning on one split, perplexity on the test split.

    Args:
        path: a folder with one file per split, the split in its name (`wiki.train.raw`, `wikitext2_test.txt`); None
            to take the data set from the hub, for which the package `datasets` is needed.
        train_split: "train" or "valid".
        second, context, stride, batch_size, num_workers, val_fraction: see `TextData`.

    Raises:
        ValueError: a split that is not there, or a number that makes no sense.
    """

    def __init__(
        self,
        path: str | None = None,
        train_split: str = "train",
        second: Files | None = None,
        context: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        val_fraction: float = 0.1,
    ) -> None:
        sizes = (context, stride, batch_size, num_workers)
        super().__init__(None, None, second, *sizes, name="wikitext2", val_fraction=val_fraction)
        if train_split not in _SPLITS[:2]:
            raise ValueError(f"data.train_split={train_split}: choose train or valid")
        self.path = path_given("path", path)
        self._splits = {"train": train_split, "test": "test"}

    def source(self, part: str) -> str:
        """The split, or the file of the second text."""
        return f"WikiText-2 {self._splits[part]}" if part in self._splits else super().source(part)

    def text(self, part: str) -> str:
        """The text of a split; that of the hub's lines is joined by blank lines, as the literature does.

        Raises:
            ValueError: it cannot be had.
        """
        if part not in self._splits:
            return super().text(part)
        return self._from_hub(self._splits[part]) if self.path is None else self._from_folder(self._splits[part])

    def _from_folder(self, split: str) -> str:
        folder = Path(str(self.path)).expanduser()
        names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        matches = [name for name in names if split in name.lower()]
        if len(matches) != 1:
            found = f"{len(matches)} files" if matches else f"none among {', '.join(names[:6]) or 'no files'}"
            hint = "; data.train_split=valid calibrates on that split" if split == "train" else ""
            raise ValueError(f"data.path={self.path}: one file with {split} in its name is needed, found {found}{hint}")
        return (folder / matches[0]).read_text(encoding="utf-8-sig")

    @staticmethod
    def _from_hub(split: str) -> str:
        hint = "or set data.path=FOLDER with one file per split"
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"data.path is not set and datasets is not installed: pip install datasets, {hint}"
            ) from error
        try:
            name = "validation" if split == "valid" else split
            lines = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=name)["text"]
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"WikiText-2 cannot be had from the hub ({error}): connect once, {hint}") from error
        return "\n\n".join(lines)
