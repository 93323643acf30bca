"""Does Hydra read what is written for it, and do we read it as Hydra does?"""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from snp.run.overrides import given_text, override

NAMES = (
    "plain/2026-11-29/02-31-18-6cc809", "lr=0.1", "runs (copy)", "it's", 'say "so"', "ünï", "a#b", "a&b", "a~b", "a!b",
    "a;b", "a,b", "a:b", "[x]", "{x}", "${x}", "a\\b", "a\\", '\\"', "null", "true", "1e-3", "2024.10", "~/x", "a%b",
    "a@b", "a+b", " a", "a b",
)  # fmt: skip


@pytest.mark.parametrize("folder", ["", "/tmp/"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_goes_through_hydras_grammar(name: str, folder: str) -> None:
    """And through the shell's before it, to the letter; `${` stays a text."""
    text = folder + name
    word = override("hydra.run.dir", text)
    (typed,) = shlex.split(shlex.join([word]))
    read = OverridesParser.create().parse_override(typed).value()
    assert str(read).replace(r"\${", "${") == text
    assert given_text(typed) == text
    if name.startswith("plain"):
        assert word == f"hydra.run.dir={text}"
