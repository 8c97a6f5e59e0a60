"""The house stands: imports only go down, modules stay small, and importing them does no harm.

diffad_jax -> input_pipeline -> configs, never back; inside diffad_jax from the verbs down.
"""

import ast
import collections
import functools
import gc
import pathlib
import re
import sys

import pytest

from tests.support import folders

ROOT = folders.REPOSITORY
BUILDINGS = ("diffad_jax", "input_pipeline", "configs")  # the upper ones import the lower ones
# Inside diffad_jax; above them stand the verbs, the files of the package itself.
FLOORS = (
    "command_line",
    "serving",
    "data_tools",
    "predicting",
    "exporting",
    "reporting",
    "scoring",
    "method",
    "models",
    "runs",
)
VERBS = -1
FILES = sorted(
    file.relative_to(ROOT)
    for place in (*BUILDINGS, "benchmarks", "tests")
    for file in (ROOT / place).rglob("*.py")
)
OURS = [file for file in FILES if file.parts[0] in BUILDINGS]


@functools.cache
def imports(file: pathlib.Path) -> list[tuple[int, str, str]]:
    """(line, dotted module, name it is bound to) of every import, inside functions too."""
    found = []
    # Python 3.11 does not bear that what other tests left is collected in the midst of parsing
    # (github.com/python/cpython/issues/106905).
    gc.disable()
    tree = ast.parse((ROOT / file).read_text())
    gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, one.name, one.asname or one.name) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            for one in node.names:
                inner = f"{node.module}.{one.name}"
                if module_file(inner) or not module_file(node.module):
                    found.append((node.lineno, inner, one.asname or one.name))
                else:  # a function or class; its module gets no name
                    found.append((node.lineno, node.module, ""))
    return found


def module_file(module: str) -> pathlib.Path | None:
    """The file of one of our modules; None: it is not ours, or no module."""
    path = pathlib.Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / file).is_file():
            return file
    return None


def floor(file: pathlib.Path) -> int:
    """How far down a file of diffad_jax stands."""
    return VERBS if len(file.parts) == 2 else FLOORS.index(file.parts[1])


def listed(violations) -> str:
    return "\n" + "\n".join(sorted(violations))


def test_every_folder_has_its_place():
    found = {file.parts[1] for file in OURS if file.parts[0] == "diffad_jax" and file.parts[2:]}
    assert found == set(FLOORS)


def test_no_building_imports_one_above_it():
    violations = [
        f"{file}:{line}: {module}"
        for file in OURS
        for line, module, _ in imports(file)
        if module.partition(".")[0] in ("tests", "benchmarks")
        or module.partition(".")[0] in BUILDINGS[: BUILDINGS.index(file.parts[0])]
    ]
    assert not violations, listed(violations)


def test_no_folder_of_diffad_jax_imports_one_above_it():
    violations = []
    for file in OURS:
        for line, module, _ in imports(file) if file.parts[0] == "diffad_jax" else []:
            target = module_file(module)
            # The package itself holds nothing but its version.
            if target and target.parts[0] == "diffad_jax" and module != "diffad_jax":
                if floor(target) < floor(file):
                    violations.append(f"{file}:{line}: {module}")
    assert not violations, listed(violations)


def test_a_module_has_one_name():
    names = collections.defaultdict(lambda: collections.defaultdict(list))
    for file in FILES:
        for line, module, name in imports(file):
            if name and module_file(module):
                # `import a.b` binds what it says.
                names[module][name.rpartition(".")[2]].append(f"{file}:{line}")
    violations = [
        f"{module} as {name}: {places[0]}"
        for module, its in names.items()
        if len(its) > 1
        for name, places in its.items()
    ]
    assert not violations, listed(violations)


@pytest.mark.parametrize(
    ("library", "place"),
    [
        ("orbax", "diffad_jax/runs/checkpoint.py"),
        ("tensorflow", "input_pipeline"),
        ("tensorflow_datasets", "input_pipeline"),
        ("torch", "diffad_jax/models/torch_file.py"),
    ],
)
def test_a_library_is_used_in_one_place(library, place):
    violations = [
        f"{file}:{line}: {module}"
        for file in OURS
        for line, module, _ in imports(file)
        if module.partition(".")[0] == library and not file.is_relative_to(place)
    ]
    assert not violations, listed(violations)


def test_files_and_folders_stay_small():
    violations = [
        f"{file}: {lines} lines"
        for file in FILES
        if (lines := len((ROOT / file).read_text().splitlines())) > 350
    ]
    counts = collections.Counter(file.parent for file in FILES)
    violations += [f"{place}: {count} files" for place, count in counts.items() if count > 12]
    assert not violations, listed(violations)


def test_what_a_docstring_names_is_there():
    words = collections.defaultdict(set)
    for file in FILES:
        words[file.stem] |= set(re.findall(r"\w+", (ROOT / file).read_text()))
    words["py"] = set(words)  # `layers.py`, too
    violations = []
    for file in FILES:
        for module, name in re.findall(r"`(\w+)\.(\w+)[`(]", (ROOT / file).read_text()):
            if name == "py":
                module, name = name, module
            # `train.deterministic` is a key, of configs/schema.py.
            if module in words and name not in words[module] | words["schema"]:
                violations.append(f"{file}: {module}.{name}")
    assert not violations, listed(violations)


IMPORTED = """
import logging, sys
import PIL.Image

def state():
    loggers = [logging.getLogger(name) for name in (None, "absl", "jax", "orbax")]
    kept = [(one.level, one.filters[:], one.handlers[:]) for one in loggers]
    return PIL.Image.MAX_IMAGE_PIXELS, kept, [h.filters[:] for one in loggers for h in one.handlers]

import absl.logging, jax, orbax.checkpoint  # what these do is their own affair
before = state()
from diffad_jax import predict
heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "torch"}
assert state() == before, f"{before} -> {state()}"
print(*sorted(heavy & set(sys.modules)))
"""


def test_importing_predict_is_light_and_changes_nothing(tmp_path):
    result = folders.call([sys.executable, "-c", IMPORTED], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # as where it is not installed
import functools, jax, numpy as np
from configs import schema, test
from diffad_jax.method import optim, steps, train_state
config = test.get_config()
config.model.unet_multipliers, config.model.attention_widths = (1,), ()
config = schema.parse(config)
networks, optimizer = train_state.define(config.model), optim.optimizer(config, 3)
shapes = jax.eval_shape(lambda: train_state.init(config, optimizer, jax.random.key(0)))
state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
batch = {"image": np.zeros((2, 32, 32, 3), np.float32), "label": np.zeros(2, np.float32)}
batch["mask"] = batch["image"][..., :1]
step = functools.partial(steps.train_step, networks=networks, optimizer=optimizer, config=config)
state, metrics = jax.eval_shape(step, state, batch, jax.random.key(1))
print(state.step.dtype, metrics["loss"].shape, "input_pipeline" in sys.modules)
"""


def test_a_training_step_needs_no_tensorflow(tmp_path):
    result = folders.call([sys.executable, "-c", WITHOUT_TENSORFLOW], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["int32", "()", "False"]
