"""Do options, defaults and meanings stand once, and does everything that shows them say the same?"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic.dataclasses import dataclass

from snp.core.options import STRICT, named, option, rule
from snp.models import LanguageModelSpec, ModelSpec
from snp.run.calibrate import CalibrationSettings
from snp.run.errors import guarded
from snp.run.help import group_options, help_text, inspect_text
from snp.run.idle import idle_options
from snp.run.options import asked_name, configuration, opened, refuse_unknown
from snp.run.refusals import refuse_unwritable
from snp.run.root import refuse_lost_sections
from snp.run.training.recipe import TrainingRecipe
from snp.settings import FitSettings, PruneSettings
from tests.command_line import ROOT, run_here

CONFIG = (ROOT / "conf" / "config.yaml").read_text()
SECTIONS: dict[str, type] = {
    "prune": PruneSettings,
    "calibration": CalibrationSettings,
    "dense": TrainingRecipe,
    "finetune": TrainingRecipe,
}


def fields_of(cls: type) -> dict[str, Any]:
    return cls.__pydantic_fields__  # type: ignore[attr-defined,no-any-return]


def lines_of(section: str) -> dict[str, tuple[str, str]]:
    """Option -> its value and its comment, as the file writes them."""
    block = re.search(rf"^{section}:\n((?:  .*\n|\n)+)", CONFIG, re.M)
    assert block is not None
    found = re.findall(r"^  (\w+): ?([^#\n]*?) *(?:# (.*))?$", block.group(1), re.M)
    return {name: (value, comment) for name, value, comment in found if not name.startswith("_")}


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("prune", 0.5, "prune=0.5 is given in place of all options of prune: set one, as prune.target_macs=0.5"),
        ("finetune", None, "finetune=null is given in place of all options of finetune: set one, as finetune.epochs=0"),
        ("finetune", "~", "~finetune takes away all options of finetune, which a run needs: set one, as finetune.ep"),
    ],
)
def test_sections_stay_sections(section: str, value: Any, words: str) -> None:
    """A value in the place of all options, or none at all, is told apart from a value of one of them."""
    composed = {
        name: {} for name in ("model", "data", "prune", "calibration", "dense", "finetune", "trainer", "logger")
    }
    refuse_lost_sections(composed)
    changed = composed | {section: value}
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        refuse_lost_sections({name: entry for name, entry in changed.items() if entry != "~"})


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, []),
        ({"preset": "quick"}, []),
        ({"preset": "paper", "planner": "magnitude"}, []),
        ({"reconstruct": "tuned", "tune_epochs": 3}, []),
        ({"tune_epochs": 3}, ["prune.tune_epochs=3 changes nothing without prune.reconstruct=tuned"]),
        (
            {"calibration": "joint", "softmax": False},
            ["prune.softmax=false changes nothing without a fit in sequence (prune.calibration=sequential, "
             "prune.reconstruct=true)"],
        ),
        ({"planner": "magnitude", "ordering": "zca"}, ["prune.ordering=zca changes nothing without prune.planner=snp"]),
    ],
)  # fmt: skip
def test_options_that_nothing_looks_at_are_named(options: dict[str, Any], wanted: list[str]) -> None:
    """Each with what it needs; nothing is said of defaults."""
    assert idle_options(PruneSettings(**options)) == wanted


@pytest.mark.parametrize("section", SECTIONS)
def test_the_file_holds_every_option(section: str) -> None:
    """None is missing, none is unknown."""
    assert set(lines_of(section)) == set(fields_of(SECTIONS[section]))


@pytest.mark.parametrize("section", ["prune", "calibration"])
def test_defaults_are_the_same(section: str) -> None:
    """What the library takes without being asked is what the command line takes."""
    for name, (value, _) in lines_of(section).items():
        default = fields_of(SECTIONS[section])[name].default
        if value != "${seed}":
            assert yaml.safe_load(value) == (list(default) if isinstance(default, tuple) else default), name
        else:
            assert yaml.safe_load(CONFIG)["seed"] == default


@pytest.mark.parametrize("section", ["prune", "calibration", "finetune"])
def test_meanings_are_the_same(section: str) -> None:
    """The comment beside an option, its line in the help and its entry in the docstring are its description."""
    shown = help_text("snp run")
    for name, (_, comment) in lines_of(section).items():
        entry = fields_of(SECTIONS[section])[name]
        assert comment == entry.description, name
        assert re.search(rf"^  {name}: .*# {re.escape(entry.description)}$", shown, re.M), name
        assert f"    {name}: {entry.description}; {rule(entry)}." in str(SECTIONS[section].__doc__)


@pytest.mark.parametrize("group", ["data", "logger", "model", "trainer"])
def test_help_says_what_every_option_of_a_group_means(group: str) -> None:
    """What any file of the group sets stands in the help with a meaning, which is written in one file only."""
    folder, shown = ROOT / "conf" / group, help_text("snp run")
    loaded = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    set_by = {choice: set(own.get(group, own)) - {"defaults"} for choice, own in loaded.items()}
    found = group_options(group)
    for choice, names in set_by.items():
        known = {option.name for option in found if choice in option.choices}
        assert {f"{group}.{name}" for name in names if not name.startswith("_")} <= known
    for each in found:
        assert each.meaning, each.name
        assert f"\n{each}\n" in shown
        text = "".join(path.read_text() for path in folder.glob("*.yaml"))
        assert len(re.findall(rf"# {re.escape(each.meaning)}$", text, re.M)) == 1, each.meaning
        assert not set(each.choices) & set(each.others)


@pytest.mark.parametrize(("choice", "spec"), [("timm", ModelSpec), ("huggingface", LanguageModelSpec)])
def test_meanings_of_model_options_are_the_same(choice: str, spec: type) -> None:
    """The help says of a network's options what their descriptions say."""
    said = {option.name: option.meaning for option in group_options("model") if choice in option.choices}
    assert said == {f"model.{name}": entry.description for name, entry in fields_of(spec).items()}


def test_every_command_has_a_help_of_its_own() -> None:
    """That of `snp inspect` names its uses, networks, data and what selects groups, and no option of training."""
    shown = inspect_text()
    assert "usage: snp inspect FOLDER" in shown
    for words in ("  resnet50  ", "  image_folder  ", "model.checkpoint=null", "data.root=null", "  ignore: []"):
        assert words in shown
    assert "epochs" not in shown
    helps = [
        subprocess.run(
            [sys.executable, "-m", "snp", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in ("run", "inspect", "export", "compare")
    ]
    assert len(set(helps)) == 4
    for name, text in zip(("run", "inspect", "export", "compare"), helps, strict=True):
        assert f"usage: snp {name} " in text
        assert "Traceback" not in text


def test_how_weights_are_fitted_is_a_part_of_the_options() -> None:
    """Every option of the fit is one of the prune by the same name, and arrives by name."""
    given = {
        "reconstruct": "tuned", "calibration": "joint", "conv_gram": "channel", "intercept": False, "repair": False,
        "rectify": False, "softmax": False, "refit_all": False, "tune_epochs": 7, "tune_optimizer": "adamw",
        "tune_rate": 0.5, "tune_views": "none", "batch_norm": "reestimate", "ridge": 0.25, "memory_gib": 3.5,
        "largest_token": 7.5,
    }  # fmt: skip
    assert set(given) == {field.name for field in dataclasses.fields(FitSettings)}
    assert dataclasses.asdict(PruneSettings(**given).fit) == given
    for name, value in given.items():
        assert getattr(PruneSettings(**{name: value}).fit, name) == value
        assert getattr(PruneSettings().fit, name) != value


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("prune.target_mac=0.5", "there is no option prune.target_mac; did you mean prune.target_macs?"),
        ("prune.riddge=1", "there is no option prune.riddge; did you mean prune.ridge?"),
        ("finetune.epoch=1", "there is no option finetune.epoch; did you mean finetune.epochs?"),
        ("calibration.sample=1", "there is no option calibration.sample; did you mean calibration.samples?"),
        ("prun.target_macs=0.5", "there is no option prun.target_macs; did you mean prune.target_macs?"),
        ("sed=1", "there is no option sed; did you mean seed?"),
        ("prune.zzz=1", "there is no option prune.zzz"),
        ("prune.target_macs", "prune.target_macs has no value: write prune.target_macs=VALUE, without a space"),
        ("foo", "foo is no option: write NAME=VALUE"),
        ("experimnt", "experimnt is no option: write NAME=VALUE; did you mean experiment?"),
        ("logger=null", "logger=null chooses nothing: leave it out, or choose among both, csv, none, wandb"),
        ("logger=", "logger= chooses nothing: leave it out, or choose among both, csv, none, wandb"),
        ("logger=wanb", "there is no logger=wanb; choices are both, csv, none, wandb; did you mean wandb?"),
        ("logger=csv,zzz", "there is no logger=zzz; choices are both, csv, none, wandb"),
        (
            "data.rot=x",
            "there is no option data.rot; did you mean data.root? (conf/data/*.yaml list those of each data; "
            "+data.NAME=... adds one)",
        ),
        (
            "model.zzz=1",
            "there is no option model.zzz (conf/model/*.yaml list those of each model; +model.NAME=... adds one)",
        ),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(word: str, sentence: str) -> None:
    """Before anything is imported or composed."""
    with pytest.raises(ValueError, match=rf"^{re.escape(sentence)}$"):
        refuse_unknown(["seed=1", word])


def test_what_hydra_knows_is_left_to_it() -> None:
    """Groups, flags, additions, removals and Hydra's own keys pass."""
    refuse_unknown(
        ["model=resnet50", "data.root=x", "-m", "seed=0,1", "+x=1", "~logger", "hydra.run.dir=y", "prune.ridge=null",
         "--cfg", "job", "run_dir=z", "model.arguments.depth=20",
         "data.context=64", "trainer.devices=2", "data=choice(digits,x)", "model=${x}",
         "experiment=ratios", "++a.b=1"]
    )  # fmt: skip
    refuse_unknown(["--config-dir=mine", "model=own"])


@pytest.mark.parametrize(
    "place", ["--config-dir {}", "-cd {}", "--config-dir={}", "hydra.searchpath=[file://{}]", "hydra.searchpath=[{}]"]
)
def test_own_files_are_known(place: str, tmp_path: Path) -> None:
    """Choices and options of the user's own files, which sweeps set, too; what they do not hold is refused as ever."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "blobs.yaml").write_text("_target_: blobs.Blobs\nnoise: 0.3\n")
    (tmp_path / "data" / "damaged.yaml").write_text("a: [")
    words = place.format(tmp_path).split()
    refuse_unknown([*words, "data=blobs", "data.noise=1,2"])
    with pytest.raises(ValueError, match=r"there is no option data\.noize; did you mean data\.noise"):
        refuse_unknown([*words, "data=blobs", "data.noize=1"])
    with pytest.raises(ValueError, match=r"there is no data=blob; choices are .*blobs"):
        refuse_unknown([*words, "data=blob"])
    with pytest.raises(ValueError, match=r"there is no data=blobs"):
        refuse_unknown(["data=blobs"])


def test_own_files_of_packages_are_left_to_hydra() -> None:
    """Which only it finds."""
    refuse_unknown(["hydra.searchpath=[pkg://somebody.conf]", "data=blobs", "data.noise=1"])


@named(lambda given: "thing")
@dataclass(frozen=True, config=STRICT)
class Thing:
    """One of everything."""

    share: float = option(..., "a share", gt=0, le=1)
    count: int = option(3, "a count", ge=1, lt=10)

    def __post_init__(self) -> None:
        if self.count == 7:
            raise ValueError("thing.count=7 brings luck elsewhere")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "thing.share is not given: it must be a number in (0, 1]"),
        ({"share": 0}, "thing.share must be a number in (0, 1], found 0"),
        ({"share": True}, "thing.share must be a number in (0, 1], found True"),
        ({"share": 1, "count": 10}, "thing.count must be a whole number from 1 to 9, found 10"),
        ({"share": 1, "count": 2.0}, "thing.count must be a whole number from 1 to 9, found 2.0"),
        ({"share": 1, "cuont": 2}, "there is no option thing.cuont; did you mean thing.count?"),
        ({"share": 1, "xyz": 2}, "there is no option thing.xyz; there are share, count"),
        ({"share": 1, "count": 7}, "thing.count=7 brings luck elsewhere"),
    ],
)
def test_sentences(given: dict[str, Any], sentence: str) -> None:
    """Each refusal names the option, what was found, and what goes."""
    with pytest.raises(ValueError, match=rf"^{re.escape(sentence)}$"):
        Thing(**given)


@pytest.mark.parametrize(
    ("cls", "given", "sentence"),
    [
        (ModelSpec, {"pretrained": "maybe"}, "model.pretrained must be true or false, found 'maybe'"),
        (ModelSpec, {"arguments": 3}, "model.arguments must be a mapping, found 3"),
        (ModelSpec, {"normalize": "imagenet"}, "model.normalize must be a mapping or null, found 'imagenet'"),
        (ModelSpec, {"smallest_image": 0}, "model.smallest_image must be a whole number of at least 1, found 0"),
        (ModelSpec, {"checkpoint": 5}, "model.checkpoint must be a name or null, found 5"),
        (LanguageModelSpec, {"dtype": "int8"}, "model.dtype must be one of float32, bfloat16, float16, found 'int8'"),
    ],
)
def test_networks_are_asked_for_in_the_same_way(cls: type, given: dict[str, Any], sentence: str) -> None:
    """A wrong type is named before a network is built."""
    with pytest.raises(ValueError, match=rf"^{re.escape(sentence)}$"):
        cls(**{"family": "timm", "name": "resnet18"} | given)


def test_values_by_position_and_by_name_are_the_same() -> None:
    """Positions count as names, in what is taken and in what is refused."""
    assert Thing(0.5, 2) == Thing(share=0.5, count=2) == dataclasses.replace(Thing(0.5, 4), count=2)
    with pytest.raises(ValueError, match=r"^thing\.share must be a number in \(0, 1\], found 2$"):
        Thing(2)


def test_a_folder_that_cannot_be_made_is_named_before_hydra_tries(tmp_path: Path) -> None:
    """A file in the way, and one in which nothing may be written; what Hydra fills in is left to it."""
    (tmp_path / "file").write_text("")
    for name, is_sweep in (("hydra.run.dir", False), ("hydra.sweep.dir", True)):
        words = [f"{name}={tmp_path}/file/x"]
        with pytest.raises(NotADirectoryError, match=rf"^{name}=.*/file/x: .*/file is a file; give another folder"):
            refuse_unwritable(words, "outputs", is_multirun=is_sweep)
        refuse_unwritable([f"{name}={tmp_path}/a/b"], "outputs", is_multirun=is_sweep)
        refuse_unwritable([f"{name}=${{oc.env:HOME}}/x"], "outputs", is_multirun=is_sweep)
        refuse_unwritable(words, str(tmp_path), is_multirun=not is_sweep)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    """As a read-only home is."""
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=r"nothing may be written into"):
        refuse_unwritable([], str(tmp_path / "outputs"), is_multirun=False)


class Unreadable(torch.utils.data.Dataset[int]):
    """Its samples cannot be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        raise ValueError("cat/5.jpg is not a readable image: it is cut short")


@pytest.mark.filterwarnings("default")
def test_a_mistake_in_a_process_that_loads_data_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch puts a stack trace around it."""

    @guarded
    def read() -> None:
        list(torch.utils.data.DataLoader(Unreadable(), num_workers=1))

    with pytest.raises(SystemExit) as ending:
        read()
    assert ending.value.code == 2
    assert capfd.readouterr().err == "error: cat/5.jpg is not a readable image: it is cut short\n"


def test_arguments_of_a_class_have_names_that_no_file_knows(tmp_path: Path) -> None:
    """The command that conf/data/other.yaml documents reaches the class; single arguments do, too."""
    line = (configuration() / "data" / "other.yaml").read_text().splitlines()[0]
    assert '`data=other data.name=NAME "data.arguments={root: DIR}"`' in line
    options = ("data=other", "data.name=image_folder", "data.arguments={root: DIR}", "data.arguments.batch_size=3")
    ended = run_here(*options, "model.arguments={width: 3}", "--cfg", "job", folder=tmp_path, tiny=False)
    assert (ended.status, ended.stderr) == (0, "")
    composed = yaml.safe_load(ended.stdout)
    assert composed["data"]["arguments"] == {"root": "DIR", "batch_size": 3}
    assert composed["model"]["arguments"] == {"depth": 20, "width": 3}
    assert asked_name("++data.arguments.root=a,seed=1", ["seed=1"]) == "data.arguments.root=a"
    assert opened("model.arguments={width: 3}") == "++model.arguments={width: 3}"
    assert opened("+model.arguments.width=3") == "+model.arguments.width=3"
