"""Can other packages bring orderings, cuts, planners, networks and data, without a change here?"""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import snp
from snp.core import cuts, orderings
from snp.core.registry import Registry
from snp.data import data_sets, other
from snp.fit.preparation import problem_of
from snp.graph.batches import Batch
from snp.models import ModelSpec, build, families
from snp.models.sources.weights import fingerprint
from snp.plan import planners
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.run.options import configuration
from snp.settings import PLANNERS, PruneSettings
from snp.surgery.subject import subject_of
from tests.command_line import run_here
from tests.measured import measured_moments
from tests.networks import cnn, images

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "backwards"
version = "1"
[project.entry-points."snp.orderings"]
backwards = "backwards:order"
zca = "backwards:order"
gone = "backwards:nothing"
short = "backwards:Broken.short"
equal = "backwards:Broken.equal"
floats = "backwards:Broken.floats"
listed = "backwards:Broken.listed"
[project.entry-points."snp.cuts"]
half = "backwards:num_kept"
none_at_all = "backwards:Broken.zero"
share = "backwards:Broken.share"
tensor = "backwards:Broken.tensor"
too_many = "backwards:Broken.too_many"
falling = "backwards:Broken.falling"
[project.entry-points."snp.planners"]
first_units = "backwards:choose"
short_of_one = "backwards:Broken.choose_short"
nothing = "backwards:Broken.choose_nothing"
repeats = "backwards:Broken.choose_repeats"
forgetful = "backwards:Broken.forget"
one_group = "backwards:Broken.choose_one"
[project.entry-points."snp.models"]
perceptron = "backwards"
half_a_family = "backwards_too"
without_format = "backwards_three"
[project.entry-points."snp.data"]
noise = "backwards:Noise"
half_a_set = "backwards:Half"
plain = "backwards:Plain"
made = "backwards:made"
[tool.setuptools]
py-modules = ["backwards", "backwards_too", "backwards_three"]
"""
WITHOUT_FORMAT = """
from backwards import build

def preprocessing(model, image_size):
    return dict(image_size=image_size, mean=(0.5,) * 3, crop_fraction=1.0)
"""
CODE = """
import torch
from torch import nn

from snp.data.base import ImageData
from snp.plan.problem import Choice, Selection


def order(statistics):
    return torch.arange(statistics.num_units).flip(0)


def num_kept(curve, level):
    return max(1, len(curve.kept_variance) // 2)


def choose(problem, settings):
    return Selection(tuple(Choice(torch.arange(g.num_units), g.num_units // 2) for g in problem.groups), 0.5)


def chosen(problem, order=torch.arange, count=lambda size: size // 2):
    return Selection(tuple(Choice(order(g.num_units), count(g.num_units)) for g in problem.groups), 0.5)


class Broken:
    # Each in its own way.

    short = staticmethod(lambda statistics: torch.arange(statistics.num_units - 1))
    equal = staticmethod(lambda statistics: torch.zeros(statistics.num_units, dtype=torch.int64))
    floats = staticmethod(lambda statistics: torch.arange(statistics.num_units).float())
    listed = staticmethod(lambda statistics: list(range(statistics.num_units)))
    zero = staticmethod(lambda curve, level: 0)
    share = staticmethod(lambda curve, level: level * len(curve.kept_variance))
    tensor = staticmethod(lambda curve, level: torch.tensor(1))
    too_many = staticmethod(lambda curve, level: len(curve.kept_variance) + 5)
    falling = staticmethod(lambda curve, level: max(1, int((1 - level) * len(curve.kept_variance))))
    choose_short = staticmethod(lambda problem, settings: chosen(problem, lambda size: torch.arange(size - 1)))
    choose_nothing = staticmethod(lambda problem, settings: chosen(problem, count=lambda size: 0))
    choose_repeats = staticmethod(lambda problem, settings: chosen(problem, lambda size: torch.arange(size) // 2))
    forget = staticmethod(lambda problem, settings: None)
    choose_one = staticmethod(lambda problem, settings: Selection(chosen(problem).choices[:1], 0.5))


def build(*, num_classes, image_size, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, width), nn.ReLU(), nn.Linear(width, num_classes))


def preprocessing(model, image_size):
    return dict(image_size=image_size, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_fraction=1.0)


class Network(nn.Identity):
    pass


class Noise(ImageData):
    num_classes = 2

    def __init__(self, size=3):
        super().__init__(name="noise", batch_size=2, num_workers=0, image_size=size, val_fraction=0.0)
        self.size = size

    def samples(self, part):
        return [(torch.zeros(3, self.size, self.size), 0)]

    def transform(self, format, training):
        return torch.nn.Identity()


class Half(ImageData):
    num_classes = 2


class Plain:
    pass


def made():
    return Plain()
"""
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a foreign package was installed as users install packages."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "source").mkdir()
    (folder / "source" / "pyproject.toml").write_text(PROJECT)
    (folder / "source" / "backwards.py").write_text(CODE)
    (folder / "source" / "backwards_too.py").write_text("def build(*, num_classes, image_size): ...")
    (folder / "source" / "backwards_three.py").write_text(WITHOUT_FORMAT)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    words = [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run(words, check=True, timeout=120)
    return folder / "site"


@pytest.fixture
def foreign(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("backwards", None)


def assert_falls(order: list[int]) -> None:
    """Falling, but for a few units behind all others: dead ones, and copies of units that stay."""
    length = next((place for place in range(1, len(order)) if order[place] > order[place - 1]), len(order))
    assert length >= len(order) - len(order) // 3, order


@pytest.mark.usefixtures("foreign")
def test_an_ordering_of_another_package_orders() -> None:
    """The units that stay are those it puts first; it is listed, behind the package's own."""
    assert orderings.names()[len(orderings.REGISTRY.own) :][:2] == ["backwards", "equal"]
    result = snp.prune(cnn(), [images(64)], ordering="backwards", target_units=0.5, round_to=1, calibration="joint")
    assert result.plan.settings["ordering"] == "backwards"
    for decision, choice in zip(result.plan.groups, result.selection.choices, strict=True):
        assert_falls(choice.order.tolist())
        assert torch.equal(decision.kept, choice.order[: choice.num_kept].sort().values)


@pytest.mark.usefixtures("foreign")
def test_cuts_planners_networks_and_data_of_another_package() -> None:
    """Each kind by its own group of entry points."""
    assert cuts.names()[len(cuts.REGISTRY.own) :][:2] == ["falling", "half"]
    assert planners.names()[len(PLANNERS.own) :][:2] == ["first_units", "forgetful"]
    assert cuts.load("half")(cuts.Curve(torch.ones(9)), 0.3) == 4
    plan = snp.prune(cnn(), [images(8)], ordering="variance", cut="half", target_macs=0.9, calibration="joint").plan
    assert plan.settings["cut"] == "half"
    options = {"planner": "first_units", "target_units": 0.5, "calibration": "joint"}
    plan = snp.prune(cnn(), [images(8)], **options).plan
    for decision in plan.groups:
        assert torch.equal(decision.kept, torch.arange(decision.group.num_units // 2))
    assert families()[-3:] == ("half_a_family", "perceptron", "without_format")
    assert build("perceptron", num_classes=5, image_size=4, width=7)[1].out_features == 7
    assert data_sets()[-4:] == ["half_a_set", "made", "noise", "plain"]
    assert other("noise", {"size": 9}).size == 9


BROKEN = {
    "ordering=short": r" must give every number from 0 to \d+ once, .*; it gave a tensor of int64, shape \[\d+\]",
    "ordering=equal": r" must give every number .*; it gave numbers from 0 to 0, \d+ repeated",
    "ordering=floats": r" must give every number .*; it gave a tensor of float32",
    "ordering=listed": r" must give every number .*; it gave a list",
    "cut=none_at_all": r" must give an int from 1 to \d+, .*; it gave 0\. Mend",
    "cut=share": r" must give an int from 1 to \d+, .*; it gave \d+\.\d+\. Mend",
    "cut=tensor": r" must give an int from 1 to \d+, .*; it gave tensor\(1\)",
    "cut=too_many": r" must give an int from 1 to (\d+), .*; it gave \d+\. Mend",
    "cut=falling": r" must not keep fewer units of a group at a higher level; it keeps \d+ at level 0\.",
    "planner=short_of_one": r", of expand, must give every number .*; it gave a tensor of int64, shape",
    "planner=nothing": r", of expand, must give an int from 1 to \d+, .*; it gave 0",
    "planner=repeats": r", of expand, must give every number .*; it gave numbers from 0 to \d+, \d+ repeated",
    "planner=forgetful": r" must give a Selection with \d+ choices, one a group, not None",
    "planner=one_group": r" must give a Selection with \d+ choices, one a group, not 1 choices",
    "planner=first_units": r" must stay within prune\.target_macs=0\.3; it keeps 0\.\d+",
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    batch = Batch((images(8),))
    subject = subject_of(cnn(), batch, PruneSettings())
    return problem_of(subject, measured_moments(subject, [batch]))


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("asked", BROKEN)
def test_methods_are_held_to_what_they_have_to_give(problem: Problem, asked: str) -> None:
    """The option that asked for it is named, and what is wrong, before anything rests on it."""
    kind, name = asked.split("=")
    others = {"ordering": "variance", "target_macs": 0.3 if name == "first_units" else 0.9}
    settings = PruneSettings(**others | {kind: name})
    with pytest.raises(ValueError, match=rf"^prune\.{kind}={name}{BROKEN[asked]}"):
        planners.chosen(replace(problem, target=settings.target), settings)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("plain", {}, "data.name=plain: Plain is no data set; a data set is a subclass of snp.data.base.ImageData"),
        ("made", {}, "data.name=made: it gives a Plain, which is no data set"),
        ("half_a_set", {}, "data.name=half_a_set: Half has no samples, transform; a data set is"),
        ("noise", {"sizee": 3}, "data.arguments has no sizee; there are size"),
        ("noise", 5, "data.arguments must be a mapping of its arguments, found 5"),
    ],
)
def test_what_is_no_data_set(name: str, arguments: Any, words: str) -> None:
    """Is refused by its name, and arguments that it does not have by those that there are."""
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        other(name, arguments)


@pytest.mark.usefixtures("foreign")
def test_a_family_that_says_too_little_of_its_images() -> None:
    """Is refused by what is lacking."""
    with pytest.raises(ValueError, match=r"^model\.family=without_format: .*; what it gives lacks std, interpolation$"):
        ModelSpec("without_format", "w").prepare(2, 8, trains_from_scratch=True)


@pytest.mark.usefixtures("foreign")
def test_changed_code_of_another_package_is_other_code(site: Path) -> None:
    """Of methods by their names, of networks by their classes; this package and its libraries have versions."""
    asked = PruneSettings(ordering="backwards", cut="half", target_macs=0.9)

    def found() -> tuple[object, ...]:
        network = Registry("model.family", "snp.models").load("perceptron").Network()
        return asked.code, Registry("model.family", "snp.models").code("perceptron"), fingerprint(network, 1)

    before = found()
    assert before == found()
    assert len(set(asked.code)) == len(before[1]) == 1  # one file holds them all
    with (site / "backwards.py").open("a") as file:
        file.write("# changed\n")
    assert all(one != other for one, other in zip(before, found(), strict=True))
    assert PruneSettings(target_macs=0.9).code == PruneSettings(planner="magnitude", target_macs=0.9).code == ()
    (site / "backwards.py").write_text(CODE)


@pytest.mark.usefixtures("foreign")
def test_own_names_come_first_and_broken_ones_are_named() -> None:
    """No package takes a name of this one; an entry point that leads nowhere is an error with its address."""
    assert orderings.load("zca").__module__ == "snp.core.orderings.zca"
    assert PruneSettings(ordering="gone").ordering == "gone"
    with pytest.raises(ValueError, match=r"prune\.ordering=gone: backwards:nothing cannot be imported"):
        orderings.load("gone")


def test_without_the_package_the_name_is_refused() -> None:
    """With the names that there are, and the nearest of them."""
    with pytest.raises(ValueError, match=r"prune\.ordering must be one of auto, output, .*; found 'backwards'$"):
        PruneSettings(ordering="backwards")
    with pytest.raises(ValueError, match=r"found 'varianc'; did you mean variance\?"):
        orderings.load("varianc")


def test_a_registry_of_nothing_is_empty() -> None:
    """No folder, no entry points."""
    assert Registry("thing.kind", "snp.things").names() == []


@pytest.mark.usefixtures("foreign")
def test_the_command_line_knows_it(tmp_path: Path) -> None:
    """`python run.py prune.ordering=backwards`, as with any other name."""
    options = ("prune.ordering=backwards", "prune.target_units=0.5", "prune.round_to=1", "prune.calibration=joint")
    ended = run_here(*options, "dense.epochs=0", "finetune.epochs=0", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    for decision in PruningPlan.load(tmp_path / "run" / "plan.json").groups:
        size = decision.group.num_units
        assert int((decision.kept >= size - size // 2).sum()) >= size // 2 - size // 4


@pytest.mark.usefixtures("foreign")
def test_a_network_of_another_package_is_run(tmp_path: Path) -> None:
    """By the command that conf/model/other.yaml documents."""
    line = (configuration() / "model" / "other.yaml").read_text().splitlines()[0]
    assert '`model=other model.family=NAME "model.arguments={width: 8}"`' in line
    options = ("model=other", "model.family=perceptron", "model.arguments={width: 8}", "prune.target_units=0.5")
    more = ("prune.round_to=1", "prune.calibration=joint", "dense.epochs=0", "finetune.epochs=0")
    ended = run_here(*options, *more, folder=tmp_path, tiny=False)
    assert ended.status == 0, ended.stderr
    (decision,) = PruningPlan.load(tmp_path / "run" / "plan.json").groups
    assert (decision.group.num_units, len(decision.kept)) == (8, 4)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "perceptron"
    with pytest.raises(
        ValueError, match=r"model\.family=half_a_family: backwards_too has no function preprocessing; a"
    ):
        ModelSpec("half_a_family", "half").prepare(2, 8, trains_from_scratch=True)
