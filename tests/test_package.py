"""What `pip install .` installs, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging import requirements, version

import diffad_jax
from tests.support.folders import REPOSITORY

PACKAGES = ("configs", "diffad_jax", "input_pipeline")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def call(*command, cwd, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's names and texts, and where it is unpacked."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"  # building writes beside the sources
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    result = call("-c", BUILD, str(place), cwd=source)
    assert result.returncode == 0, result.stderr
    [file] = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place / "installed")
    return place / "installed"


def metadata(wheel, name):
    return (wheel / f"diffad_jax-{diffad_jax.__version__}.dist-info" / name).read_text()


def test_holds_every_module_and_no_more(wheel):
    expected = {
        file.relative_to(REPOSITORY)
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*.py")
    }
    assert {file.relative_to(wheel) for file in wheel.rglob("*.py")} == expected
    assert all((wheel / package / "py.typed").exists() for package in PACKAGES)
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == set(PACKAGES)


def test_says_what_it_is(wheel):
    lines = metadata(wheel, "METADATA").splitlines()
    assert "License-Expression: MIT" in lines and "Author: The diffad_jax authors" in lines
    assert "Project-URL: Paper, https://arxiv.org/abs/2303.08730" in lines
    required = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"Requires-Python: {required['requires-python']}" in lines
    assert any(line.startswith("Requires-Dist: jax>=") for line in lines)
    assert "diffad = diffad_jax.main:run" in metadata(wheel, "entry_points.txt")


def test_the_citation_names_this_version():
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {diffad_jax.__version__}\n" in citation


def test_works_from_any_folder(wheel, tmp_path):
    def installed(*command):
        result = call(*command, cwd=tmp_path, PYTHONPATH=str(wheel), JAX_PLATFORMS="cpu")
        return result.returncode, result.stdout, result.stderr

    code, out, _ = installed("-m", "diffad_jax.main", "--help", "train")
    assert code == 0 and "usage: python -m diffad_jax.main --mode train" in out
    assert str(wheel / "configs/default.py") in out  # says what each key means
    script = "import sys; from diffad_jax.main import run; sys.argv[0] = 'bin/diffad'; run()"
    code, out, _ = installed("-c", script, "--help")
    assert code == 0 and "usage: diffad --mode MODE" in out
    for name in ("default", "configs/small.py"):
        check = ("--mode=check", f"--config={name}", "--config.data.root=nowhere")
        code, _, err = installed("-c", script, *check, "--config.data.category=all")
        assert (code, err) == (1, "error: no such folder: nowhere\n")


@pytest.mark.parametrize("pins", ["constraints-py311.txt", "constraints-py313.txt"])
def test_what_was_tested_is_what_is_required(pins):
    """Every requirement has its tested version, within its bounds, and the Python is named."""
    lines = (REPOSITORY / pins).read_text().splitlines()
    pinned = dict(line.replace("_", "-").lower().split("==") for line in lines)
    for source in ("requirements.txt", "requirements-dev.txt"):
        for line in (REPOSITORY / source).read_text().splitlines():
            if line.startswith(("#", "-r")):
                continue
            needed = requirements.Requirement(line.split(" #")[0])
            if needed.marker is None or needed.marker.evaluate():
                tested = pinned[needed.name.replace("_", "-").lower()]
                assert needed.specifier.contains(tested), f"{needed}: {pins} has {tested}"
    python = version.Version(f"3.{pins[len('constraints-py3') : -len('.txt')]}")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
