"""Does everything under conf/ and sweeps/ compose, every value of every grid, and nothing else?"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from snp.core import cuts, orderings
from snp.models import ModelSpec
from snp.run.calibrate import CalibrationSettings
from snp.run.stages import Run
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings
from tests.command_line import ROOT, Ended, overrides, points

GROUPS = ("model", "data", "trainer", "logger")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
_ALL = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
# One run each: the paper's networks, and a try; all others are questions over many runs.
PAPER = [name for name in _ALL if name.startswith("paper_")]
EXPERIMENTS = [name for name in _ALL if name not in (*PAPER, "debug")]
# Questions of the paper, asked without W&B only.
PAPER_QUESTIONS = {"vgg_single_layer", "ordering_ablation", "ratio_ablation"}
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _conf() -> Iterator[None]:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@cache
def compose(*options: str, with_hydra: bool = False) -> DictConfig:
    """A composed configuration, made once: that takes a quarter of a second."""
    return hydra.compose("config", overrides=list(options), return_hydra_config=with_hydra)


def unresolved(config: DictConfig, key: str) -> Any:
    """A value as it is written, where what it refers to is known to a running Hydra only."""
    return OmegaConf.to_container(config)[key]  # type: ignore[index,call-overload]


def sweep(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())


def experiment_points(name: str) -> list[dict[str, Any]]:
    """Every point of an experiment, its values as Hydra reads them."""
    parameters = compose(f"experiment={name}", with_hydra=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in parameters.items()])
    choices = [list(entry.sweep_iterator()) if entry.is_sweep_override() else [entry.value()] for entry in parsed]
    return covering([dict(zip(parameters, chosen, strict=True)) for chosen in product(*choices)])


def covering(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many points of a grid that every value is in one of them; all would take minutes to compose."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for point in found:
        shown = {(name, str(value)) for name, value in point.items()}
        if shown - seen:
            seen |= shown
            kept.append(point)
    return kept


def assert_runs(config: DictConfig) -> tuple[Any, ...]:
    """What a run checks of its numbers and names before it starts; returns the checked settings."""
    parts = tuple(hydra.utils.instantiate(config[name]) for name in ("prune", "calibration", "dense", "finetune"))
    return *parts, config.seed, config.model.name


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    """Every file of every group composes and makes what it names."""
    needed = ["model.name=resnet18"] if name == "timm" else []
    config = compose(f"{group}={name}", "run_dir=here", *needed)
    assert OmegaConf.missing_keys(config) == set()
    assert_runs(config)
    hydra.utils.instantiate(config[group])


def test_defaults_are_the_defaults_of_the_library() -> None:
    """A run without options prunes as snp.prune does without options."""
    assert hydra.utils.instantiate(compose().prune) == PruneSettings()
    assert hydra.utils.instantiate(compose().calibration) == CalibrationSettings()


@pytest.mark.parametrize(
    ("key", "cls"),
    [
        ("prune", PruneSettings),
        ("calibration", CalibrationSettings),
        ("dense", TrainingRecipe),
        ("finetune", TrainingRecipe),
        ("model", ModelSpec),
    ],
)
def test_all_options_are_listed(key: str, cls: type) -> None:
    """Every field is written out in conf/, so that Hydra knows it and refuses all others."""
    listed = {str(name) for name in compose()[key] if not str(name).startswith("_")}
    assert listed == {field.name for field in fields(cls)}


def test_the_root_lists_the_fields_of_a_run() -> None:
    """The root of the configuration has the fields of a run, but for those that run.py gives."""
    listed = {str(name) for name in compose() if not str(name).startswith("_")}
    assert listed - {"optimise"} == {field.name for field in fields(Run)} - {"config", "is_multirun"}


@pytest.mark.parametrize(
    "options", ["data=text", "data=wikitext2", "experiment=paper_resnet50", "experiment=paper_vgg16"]
)
def test_recipes_of_their_own_are_whole(options: str) -> None:
    """Nothing of the recipe for images is left in them: labels alone, along a cosine, the weights themselves."""
    found = compose(options).finetune
    assert (found.schedule, found.warmup_epochs, found.distil, found.average) == ("cosine", 0, 0, 0)
    default = compose().finetune
    assert found.learning_rate < default.learning_rate
    assert default.distil > 0
    assert default.average > 0


@pytest.mark.parametrize("key", ["", *(f"{part}." for part in ("prune", "calibration", "dense", "finetune", *GROUPS))])
def test_unknown_keys_fail(key: str) -> None:
    """A misspelt option is an error and not a silent addition, at every level."""
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        compose(f"{key}target_vr=0.9")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_point_of_an_experiment_composes(name: str) -> None:
    """Every point composes to something that runs, the points differ, and all share dense weights and moments."""
    config = compose(f"experiment={name}", with_hydra=True)
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.logger.group == name
    assert unresolved(config, "cache_dir").startswith("${hydra:sweep.dir}/")
    found = experiment_points(name)
    settings = [assert_runs(compose(f"experiment={name}", *overrides(point))) for point in found]
    # Prune settings carry the seed, so that points that differ in it only differ there, too.
    assert len({repr(entry) for entry in settings}) == len({repr(point) for point in found}) > 1


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_compose(name: str) -> None:
    """Each is one run, by the paper's method, with what it costs said at its head."""
    config = compose(f"experiment={name}", with_hydra=True)
    assert config.hydra.mode is None
    assert_runs(config)
    settings = hydra.utils.instantiate(config.prune)
    assert (settings.ordering_name, settings.cut_name, settings.calibration) == ("zca", "variance", "joint")
    assert "# Cost: " in (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_options_on_the_command_line_win(name: str) -> None:
    """What a user types wins over an experiment, and an experiment over the defaults."""
    assert unresolved(compose(f"experiment={name}"), "cache_dir") != compose().cache_dir
    config = compose(f"experiment={name}", "cache_dir=mine", "finetune.epochs=7")
    assert (config.cache_dir, config.finetune.epochs) == ("mine", 7)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_of_a_sweep_composes(name: str) -> None:
    """Every point of the grid, written as W&B writes it, composes to something that runs, and the points differ."""
    found = covering(points(sweep(name)["parameters"]))
    settings = [assert_runs(compose(*overrides(point))) for point in found]
    assert len({repr(entry) for entry in settings}) == len(found) > 1


@pytest.mark.parametrize("name", SWEEPS)
def test_shape_of_a_sweep(name: str, finished_run: tuple[Path, Ended]) -> None:
    """A sweep starts run.py with `name=value` arguments and watches a number that every run logs."""
    file = sweep(name)
    assert (ROOT / file["program"]).name == "run.py"
    assert file["method"] == "grid"
    assert file["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert f'"{file["metric"]["name"]}"' in (finished_run[0] / "metrics.json").read_text()
    assert file["name"] == name


@pytest.mark.parametrize("name", sorted(set(SWEEPS) & set(EXPERIMENTS)))
def test_a_sweep_and_its_experiment_ask_the_same(name: str) -> None:
    """With and without W&B the same settings are run."""
    with_wandb = [assert_runs(compose(*overrides(point))) for point in covering(points(sweep(name)["parameters"]))]
    without = [assert_runs(compose(f"experiment={name}", *overrides(point))) for point in experiment_points(name)]
    assert sorted(map(repr, with_wandb)) == sorted(map(repr, without))


@pytest.mark.parametrize(("parameter", "names"), [("ordering", orderings.names()), ("cut", cuts.names())])
def test_the_sweeps_of_orderings_and_cuts_leave_none_out(parameter: str, names: list[str]) -> None:
    """A new ordering or cut takes part in the comparison."""
    assert sorted(sweep(f"{parameter}s")["parameters"][f"prune.{parameter}"]["values"]) == sorted(names)


@pytest.mark.parametrize("name", SWEEPS)
def test_seeds_are_a_dimension_of_every_sweep(name: str) -> None:
    """No answer rests on one seed."""
    assert len(sweep(name)["parameters"]["seed"]["values"]) >= 3


def test_a_debug_run_composes() -> None:
    """It is one run of seconds, not a sweep."""
    config = compose("experiment=debug", with_hydra=True)
    assert config.hydra.mode is None or config.hydra.mode.name == "RUN"
    assert_runs(config)


def test_every_question_is_asked_both_ways() -> None:
    """Every sweep has its experiment, and every experiment its sweep."""
    assert set(SWEEPS) == set(EXPERIMENTS) - PAPER_QUESTIONS
    assert {"ratios", "orderings", "cuts", "calibration_size", "reconstruction", "seeds", "structures"} <= set(SWEEPS)
