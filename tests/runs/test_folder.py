"""What a run is bound to: its settings and its pictures, not where they lie; and what not."""

import shutil

import pytest

from configs.errors import UserError
from diffad_jax import evaluate, train
from diffad_jax.method import steps
from diffad_jax.runs import folder
from tests import test_train
from tests.support import folders
from tests.test_safety import toy_run
from tests.test_train import configured, outcome

toy, nothing_compiled = test_train.toy, test_train.nothing_compiled  # fixtures


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with pictures, data, and a run that was stopped after 3 of 7 steps, run."""
    root = tmp_path_factory.mktemp("stopped")
    folders.category(root / "data")
    toy_run(configured(root / "data", train__steps=3), root / "run")
    return root


@pytest.fixture
def data(stopped, tmp_path):
    return shutil.copytree(stopped / "data", tmp_path / "data")


@pytest.fixture
def begun(toy, data, stopped, tmp_path):
    """Pictures and workdir of the test's own."""
    return data, shutil.copytree(stopped / "run", tmp_path / "run")


def test_a_workdir_belongs_to_one_configuration(data, tmp_path, nothing_compiled):
    folder.claim(tmp_path / "run", configured(data))
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    before = (tmp_path / "run/config.json").read_bytes()
    other = configured(data, model__heads=2, unet_optim__rate=1.0, train__steps=9)
    with pytest.raises(UserError) as raised:
        train.run(other, tmp_path / "run")
    message = str(raised.value)
    assert "model.heads was 4, is now 2" in message and "unet_optim.rate was " in message
    assert "train.steps" not in message and "\n" not in message
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoints", "config.json"]
    assert (tmp_path / "run/config.json").read_bytes() == before
    # A longer run of the same is the same run.
    folder.claim(tmp_path / "run", configured(data, train__steps=9, evaluate__top_pixels=3))


@pytest.mark.parametrize("content", ["", '{"seed": 0, "mod', "[1, 2]"])
def test_a_broken_config_file_is_named(content, data, tmp_path, nothing_compiled):
    (tmp_path / "config.json").write_text(content)
    for run in (train.run, evaluate.run):
        with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json is not a configuration"):
            run(configured(data), tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_a_moved_folder_is_no_other_data(begun, tmp_path):
    data, work = begun
    data.rename(tmp_path / "moved")
    train.run(configured(tmp_path / "moved"), work)
    folders.category(data)
    train.run(configured(data), tmp_path / "whole")
    scores = [(folder / "eval/7/scores.csv").read_bytes() for folder in (work, tmp_path / "whole")]
    assert scores[0] == scores[1]


def gone(category):
    (category / "train/good/004.png").unlink()


def new(category):
    shutil.copy(category / "train/good/004.png", category / "train/good/009.png")


def another(category):
    shutil.copy(category / "train/good/004.png", category / "train/good/005.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (gone, "gone: train/good/004.png"),
        (new, "new: train/good/009.png"),
        (another, "another file: train/good/005.png"),
    ],
)
def test_other_pictures_are_refused_by_name(begun, change, told):
    data, work = begun
    before = outcome(work)
    change(data / "disc")
    with pytest.raises(UserError, match=f"have changed since it began: {told}; put them back"):
        train.run(configured(data, train__batch_size=8), work)
    assert outcome(work) == before


def test_other_textures_are_refused(toy, data, tmp_path):
    for i in range(3):
        folders.save(tmp_path / f"textures/{i}.png", folders.part(folders.np.random.default_rng(i)))
    config = configured(data, data__textures=str(tmp_path / "textures"), train__steps=3)
    train.run(config, tmp_path / "run")
    (tmp_path / "textures/1.png").unlink()
    with pytest.raises(UserError, match=r"the pictures of data\.textures have changed since"):
        train.run(config, tmp_path / "run")


def test_test_pictures_may_change_in_training(begun):
    data, work = begun
    (data / "disc/test/good/000.png").unlink()
    assert train.run(configured(data), work) is not None


def test_after_too_little_memory_the_advised_keys_start_in_the_same_workdir(
    toy, data, tmp_path, monkeypatch
):
    def too_large(*_, **__):
        raise test_train.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "train_step", too_large)
        with pytest.raises(UserError, match=r"try model\.compute_dtype=bfloat16, model\.rem"):
            train.run(configured(data), tmp_path / "run")
    lighter = configured(data, model__compute_dtype="bfloat16", model__remat="norms")
    assert train.run(lighter, tmp_path / "run") is not None
    assert folder.read_config(tmp_path / "run").model.remat == "norms"


def test_what_saves_memory_or_computes_otherwise_does_not_bind_an_evaluation(begun):
    data, work = begun
    other = {"model__remat": "blocks", "model__compute_dtype": "bfloat16"}
    assert evaluate.run(configured(data, **other), work) is not None
    assert evaluate.run(configured(data, **other, model__attention="cudnn"), work) is not None


def test_a_run_trained_with_the_kernel_of_gpus_is_evaluated_without(
    toy, data, tmp_path, monkeypatch
):
    config = configured(data, model__attention="cudnn", model__compute_dtype="bfloat16")
    with pytest.raises(UserError, match=r"model\.attention=cudnn needs a CUDA GPU, this is a cpu"):
        train.run(config, tmp_path / "run")
    elsewhere = configured(data, model__compute_dtype="bfloat16")
    train.run(elsewhere, tmp_path / "run")
    text = (tmp_path / "run/config.json").read_text()
    (tmp_path / "run/config.json").write_text(text.replace('"xla"', '"cudnn"'))
    assert evaluate.run(folder.read_config(tmp_path / "run"), tmp_path / "run") is not None


def test_a_renamed_category_is_no_other_data(begun):
    data, work = begun
    (data / "disc").rename(data / "coin")
    assert train.run(configured(data, data__category="coin"), work) is not None


def test_a_renamed_category_that_is_treated_otherwise_is_refused(begun):
    data, work = begun
    (data / "disc").rename(data / "grid")  # a texture by its name
    with pytest.raises(UserError, match=r"treated as object, and as texture now: set data\.kind"):
        train.run(configured(data, data__category="grid"), work)


def test_without_a_checkpoint_other_pictures_may_be_taken(data, tmp_path, nothing_compiled):
    work = tmp_path / "run"
    for change in (lambda _: None, gone):
        change(data / "disc")
        with pytest.raises(AssertionError, match="compiled before"):
            train.run(configured(data), work)
    # What a kill left half-written is no checkpoint.
    (work / "checkpoints/3.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not folder.has_checkpoint(work)
    for name in ("checkpoints/3", "checkpoints_damaged/3.1"):
        (work / name).mkdir(parents=True)
        assert folder.has_checkpoint(work)
        (work / name).rmdir()


@pytest.mark.parametrize("content", ["", "[]", '{"train": {}, "held_out": {}}'])
def test_a_broken_list_of_pictures_is_named(begun, content):
    data, work = begun
    (work / "pictures.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{work}/pictures\.json is damaged or of another"):
        train.run(configured(data), work)
