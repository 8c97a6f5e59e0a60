"""--config and its keys on the command line: what is meant, and what is wrong, in a line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import configs
from configs import stored
from configs.errors import UserError
from diffad_jax.command_line import arguments
from tests.support import folders, helpers

PACKAGED = pathlib.Path(configs.__file__).parent
MINE = """
from configs import default


def get_config(size="64"):
    config = default.get_config()
    config.model.image_size = int(size)
    return config
"""


@pytest.fixture
def own(monkeypatch):
    """A run's own configuration stands for itself."""
    monkeypatch.setattr(arguments, "own_config", lambda workdir: f"own:{workdir}")
    monkeypatch.setattr(arguments, "check_config", lambda *_: None)


@pytest.mark.parametrize("name", ["default", "default.py", "configs/default.py"])
def test_packaged(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arguments.config_path(name) == str(PACKAGED / "default.py")


@pytest.mark.parametrize("name", ["default", "default.py", "configs/default"])
def test_of_the_working_directory_first(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("default.py", "configs/default.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("def get_config(): ...")
    (tmp_path / "default").mkdir()  # a folder is no configuration
    assert arguments.config_path(name) == f"{name.removesuffix('.py')}.py"


def test_argument_is_kept():
    assert arguments.config_path("stored:gs://b/run") == f"{PACKAGED / 'stored.py'}:gs://b/run"


@pytest.mark.parametrize("name", ["", ".", "other/default.py", "default.json", "__init__"])
def test_another_path_means_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"configuration"):
        arguments.check_config(arguments.config_path(name))


@pytest.mark.parametrize("words", [["--config", "test"], ["-config=test"]])
def test_overrides_may_come_first(words):
    before, after = ["--config.seed=1", "--workdir", "w"], ["--config.data.root", "r"]
    expected = ["--config.seed=1", "--workdir=w", "--config.data.root=r"]
    given = arguments.arguments(["main.py", *before, *words, *after])
    assert given == ["main.py", f"--config={PACKAGED / 'test.py'}", *expected]


def test_the_run_s_own_is_the_default_of_a_finished_run(own):
    words = ["main.py", "--mode=evaluate", "--workdir=a", "--workdir=b"]
    assert arguments.arguments(words) == ["main.py", "--config=own:b", *words[1:]]
    given = [*words, "--config=test"]
    assert arguments.arguments(given)[1] == f"--config={PACKAGED / 'test.py'}"


@pytest.mark.parametrize("given", ["runs/x/config.json", "runs/x", "runs/x/"])
def test_a_run_s_config_json_is_that_run_s_configuration(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/x").mkdir(parents=True)
    values = helpers.parsed(train__steps=7).to_dict()
    (tmp_path / "runs/x/config.json").write_text(json.dumps(values))
    path = arguments.config_path(given)
    assert path == f"{stored.__file__}:runs/x"
    arguments.check_config(path, ["config.train.steps"])
    monkeypatch.chdir(tmp_path / "runs/x")
    assert arguments.config_path("config.json") == f"{stored.__file__}:."


@pytest.mark.parametrize("flag", ["workdir", "output", "input", "config", "checkpoint"])
def test_a_home_folder_is_expanded(flag, own, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(arguments, "config_path", lambda given: given)
    mode = "import" if flag == "checkpoint" else "predict"
    needs = {"import": ("checkpoint", "config", "workdir")}.get(
        mode, ("workdir", "input", "output")
    )
    values = dict.fromkeys(needs, "there") | {flag: "~/x"}
    for form in ("--{}={}", "--{} {}"):
        words = [w for name, value in values.items() for w in form.format(name, value).split()]
        parsed = arguments.arguments(["main.py", f"--mode={mode}", *words])
        assert f"--{flag}=/home/me/x" in parsed


def test_values_are_no_keys(own):
    """ml_collections takes any word that begins like a key for one."""
    words = ["--mode=predict", "--workdir", "w", "--output", "o", "--input", "--config.jpg"]
    assert arguments.arguments(["main.py", *words])[-1] == "--input=--config.jpg"


def test_switches_need_no_value(own):
    start, end = ["main.py", "--config=test"], ["--workdir", "w"]
    name = "--config.train.deterministic"
    for given, told in (([name], name), ([name, "true"], f"{name}=true")):
        assert arguments.arguments([*start, *given, *end])[2:] == [told, "--workdir=w"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "line 1: SyntaxError"),
        ("import nothing_of_that_name", "line 1: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return undefined", "line 2: NameError: name 'undefined'"),
        ("def get_config():\n    pass", r"get_config\(\) of .* gives None, not a ConfigDict"),
        ("def get_config(name):\n    pass", r"needs an argument: give --config=.*:ARGUMENT$"),
        ("config = 3", r"is no configuration: it has no get_config\(\)$"),
        (MINE.replace("int(size)", "int(size) + 'a'"), "line 7: TypeError"),
        (MINE.replace("default.get_config()", "type(default.get_config())()"), "line 7: "),
        ("import ml_collections as m\nget_config = m.ConfigDict", "has no key seed$"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_told_with_its_place(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        arguments.check_config(str(file), ["config.seed"])
    assert str(file) in str(raised.value)


def test_mistakes_in_packaged_files_are_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "PACKAGED", tmp_path)
    (tmp_path / "mine.py").write_text("def get_config():\n    return undefined")
    with pytest.raises(NameError):
        arguments.check_config(str(tmp_path / "mine.py"))


CALL = """
import sys
from absl import flags
from diffad_jax.command_line import arguments
from configs import schema
arguments.parse(sys.argv)
print(schema.parse(flags.FLAGS.config).model.image_size)
"""


def called(folder, *words):
    return subprocess.run(
        [sys.executable, "-c", CALL, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folders.REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_copied_configuration_works_anywhere(tmp_path):
    """From any working directory, even one that has a folder 'configs' with the copy in it."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.py").write_text(MINE)
    for name, size in (("configs/mine.py", 64), ("configs/mine", 64), ("configs/mine.py:32", 32)):
        result = called(tmp_path, f"--config={name}", "--workdir=w")
        assert (result.returncode, result.stdout) == (0, f"{size}\n"), result.stderr


@pytest.mark.parametrize(
    "value",
    [
        *("train.steps=2.5", "train.steps=many", "train.steps=", "train.deterministic=perhaps"),
        *("loss.focal_weight=nan", "loss.focal_weight=1e999", "model.unet_multipliers=(1,"),
        *("model.unet_multipliers=x", "model.unet_multipliers[0]=2", "model.heads=1,2"),
        *("train.profile_steps=(1, 2, 3)", "seed=4294967296", "data.root=", "model={}"),
    ],
)
def test_impossible_values_of_keys_are_one_line(value, tmp_path):
    program = [sys.executable, "-m", "diffad_jax.main", "--mode=check", "--config=test"]
    result = folders.call([*program, f"--config.{value}"], tmp_path)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert (
        result.stderr.startswith("error: ") and value.split("=")[0].split("[")[0] in result.stderr
    )
