"""Does the package work where there is no checkout: built as a wheel, installed, and started from an empty folder?"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, TINY, environment

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a user gets it: from a wheel, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    for name in ("snp", "conf"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), "./source"]
    subprocess.run(wheel, cwd=folder, check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(built)], check=True)
    return target


def snp(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The console command, seeing the installed package and not the checkout."""
    command = [sys.executable, str(installed / "bin" / "snp"), *words]
    variables = {**environment(cwd), "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=280)


def test_help_answers_at_once(installed: Path, tmp_path: Path) -> None:
    """The commands and the options with their meanings are there without the seconds that torch takes to import."""
    assert "snp export" in snp(installed, "--help", cwd=tmp_path).stdout
    said = snp(installed, "run", "--help", cwd=tmp_path).stdout
    for word in (
        "cifar_resnet20",
        "prune.dry_run=true",
        "target_macs: null",
        "# share of the dense network's multiply",
    ):
        assert word in said, said
    for command in ("export", "compare"):
        code = f"import sys; sys.argv = ['snp', {command!r}, '--help']; import snp.__main__ as main\ntry: main.main()\n"
        code += "except SystemExit: assert not {'torch', 'matplotlib', 'plotly'} & set(sys.modules)"
        variables = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, timeout=20, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert f"usage: snp {command}" in ended.stdout
    code = "import sys, runpy; sys.argv = ['run.py', '--help']; runpy.run_path({!r}, run_name='__main__')"
    code = code.format(str(ROOT / "run.py"))
    code += "; print({'torch', 'pytorch_lightning', 'hydra'} & set(sys.modules), file=sys.stderr)"
    variables = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, timeout=20, text=True)
    assert (ended.returncode, ended.stderr) == (0, "set()\n")


def test_a_dry_run_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    """`snp inspect` with options composes the shipped files and lists the groups."""
    ended = snp(installed, "inspect", *TINY, "logger=none", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "| layer2.0.conv1 " in ended.stdout
    assert list(tmp_path.glob("outputs/*/*/groups.json"))


@pytest.mark.slow
def test_a_run_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    """`snp run` works in an empty folder, and `snp inspect` shows what it decided."""
    options = (*TINY, "finetune.epochs=0", "logger=none", "hydra.run.dir=one")
    ended = snp(installed, "run", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"Run folder: {tmp_path / 'one'}"
    shown = snp(installed, "inspect", "one", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "| layer2.0.conv1 " in shown.stdout
    assert len(shown.stdout) < 4000


def test_mistakes_of_the_console_command(installed: Path, tmp_path: Path) -> None:
    """Unknown commands, options and folders are named, with status 2 and no stack trace."""
    for words in (["prune"], ["run", "prune.nope=1"], ["inspect", "nowhere"]):
        ended = snp(installed, *words, cwd=tmp_path)
        assert ended.returncode == 2, ended
        assert words[-1].split("=")[0] in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_two_processes_from_the_console_command(installed: Path, tmp_path: Path) -> None:
    """Lightning starts the second process by the words of the first."""
    options = (*TINY[:4], "finetune.epochs=0", "logger=none", "hydra.run.dir=two", "trainer=ddp_cpu")
    ended = snp(installed, "run", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "two" / "pruned.safetensors").is_file()
    assert not (tmp_path / "outputs").exists()
