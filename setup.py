"""Which folders does the package ship?  Those of ``snp``, and ``conf`` as ``snp.conf``; else see pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

CONF = ["conf", *sorted(path.as_posix() for path in Path("conf").rglob("*") if path.is_dir())]

setup(
    packages=find_packages(include=["snp*"]) + ["snp." + folder.replace("/", ".") for folder in CONF],
    package_dir={"snp.conf": "conf"},
    package_data={
        "snp": ["py.typed"],
        "snp.report": ["templates/*"],
        **{"snp." + folder.replace("/", "."): ["*.yaml"] for folder in CONF},
    },
)
