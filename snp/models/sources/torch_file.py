"""What does a file of `torch.save` hold, read without running any code of it?  And where it cannot be read, why not?"""

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["read"]

_ARCHIVE = b"PK\x03\x04"
_BEFORE_ARCHIVES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began its files up to torch 1.5
_SHOWN = 4
_DAMAGED = "a file of torch.save that is damaged or cut short; copy or fetch it again"


def read(path: Path) -> Any:
    """The object in it: tensors, containers, numbers, text, and the `argparse.Namespace` of training scripts.

    Raises:
        ValueError: it cannot be read; the message is what it is instead, and what to do.
    """
    with path.open("rb") as file:
        start = file.read(len(_BEFORE_ARCHIVES))
    if start.startswith(_ARCHIVE):
        _require_archive(path)
    # Scripts of timm and torchvision keep their command line beside the weights; a namespace only holds values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a file raises that torch cannot read
            raise ValueError(_why(path, start, error)) from error


def _require_archive(path: Path) -> None:
    """Its table of contents, which stands at the end, is there, and it is not that of a program."""
    if not zipfile.is_zipfile(path):
        raise ValueError(_DAMAGED)
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError(
                "a TorchScript program, no file of weights; write those of it, torch.jit.load(FILE).state_dict(), "
                "with safetensors.torch.save_file"
            )


def _why(path: Path, start: bytes, error: Exception) -> str:
    if names := _refused(path, error):
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
        return (
            f"beside tensors it holds objects that code would have to make ({shown}), and no code of a file is run; "
            "where you trust it, read it once with torch.load(FILE, weights_only=False), and write its state dict "
            "with safetensors.torch.save_file"
        )
    if start.startswith(_ARCHIVE):
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return f"an archive that torch cannot read ({line}): it is damaged, or torch.save did not write it"
    if start.startswith(_BEFORE_ARCHIVES):
        return _DAMAGED
    return "neither a safetensors file nor one of torch.save; give the file with the weights"


def _refused(path: Path, error: Exception) -> list[str]:
    """The names of classes and functions that the file asks for and does not get."""
    said = re.findall(r"GLOBAL (\S+)", str(error))
    try:
        return sorted({*torch.serialization.get_unsafe_globals_in_checkpoint(path), *said})
    except Exception:  # it reads archives that are whole; of other files there is what the error says
        return said
