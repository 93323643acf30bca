"""Do sentence embeddings of a real pretrained encoder survive the cut?"""

from pathlib import Path

import pytest

from tests.command_line import ROOT


@pytest.mark.slow
@pytest.mark.realdata
def test_embeddings_stay_close(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 25 % of the hidden units gone, on sentences of a text that it was not calibrated on."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import minilm

    train, test = ((data_dir / "text" / f"wikitext2_{part}.txt").read_text() for part in ("valid", "test"))
    assert minilm.similarity(0.75, "SNP, library defaults", train, test, 128, 100) >= 0.97
