"""The TFDS builder and the cache: shared, prepared ahead, filled up, read without the source."""

import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters

from configs.errors import UserError
from input_pipeline import builder, datasets
from tests.support import sets

FOLDER = "nut"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    sets.make(root, "mvtec", FOLDER)
    return root


def options(root, **changes):
    return sets.options(root, FOLDER, **changes)


def load(root, **changes):
    return datasets.load_category(options(root, **changes), sets.SIZE)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_every_row_of_the_table_is_a_config_with_what_tfds_shows():
    configs = builder.AnomalyPictures.builder_configs
    assert set(configs) == {"auto", *builder.LAYOUTS}
    with tempfile.TemporaryDirectory() as folder:
        for name, row in builder.LAYOUTS.items():
            info = builder.AnomalyPictures(config=name, data_dir=folder).info
            assert info.description == row.description and info.citation == row.citation
            assert info.redistribution_info.license == row.licence


def test_nothing_is_left_among_the_temporary_files(root, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    load(root)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_tfds_load_reads_what_the_program_prepared(root):
    category = load(root)
    (name,) = (
        f.name for f in (root.parent / "cache/anomaly_pictures").iterdir() if f.name[0] != "."
    )
    rows = tfds.data_source(
        f"anomaly_pictures/{name}", data_dir=root.parent / "cache", split="test"
    )
    assert [row["label"] for row in rows] == category.test.labels.tolist()
    np.testing.assert_array_equal(rows[1]["image"], category.test.images[1])


def test_a_host_without_the_pictures_reads_what_was_prepared(root, tmp_path):
    sets.save(root / "stuff/a/1.png", sets.picture("stuff"))
    sets.save(root / "nut/thresh/1.png", sets.noise("part", 32, 32) // 128 * 255)
    how = {"textures": str(root / "stuff"), "kind": "texture", "fit": "pad"}
    data = options(root, **how)
    made = datasets.prepared_category(data, sets.SIZE), datasets.prepared_textures(data, sets.SIZE)
    assert all(pathlib.Path(one.path).is_dir() for one in made)
    here, stuff = load(root, **how), datasets.load_textures(options(root, **how), sets.SIZE)
    root.rename(tmp_path / "elsewhere")
    there = load(root, **how, layout="prepared")
    for split in ("train", "test"):
        for field in ("images", "masks", "labels", "names", "defects", "has_mask", "stamps"):
            a, b = (getattr(getattr(category, split), field) for category in (here, there))
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(here.parts[..., 0], sets.noise("part", 32, 32)[None] // 128 * 255)
    np.testing.assert_array_equal(here.parts, there.parts)
    again = datasets.load_textures(options(root, **how, layout="prepared"), sets.SIZE)
    np.testing.assert_array_equal(again.images, stuff.images)
    assert (again.names, again.fingerprint) == (stuff.names, stuff.fingerprint)
    with pytest.raises(UserError, match="no such folder"):
        load(root, **how)
    with pytest.raises(UserError, match="found 0 prepared sets of nut at"):
        load(root, **how | {"fit": "crop"}, layout="prepared")


def test_prepared_pictures_without_masks_need_the_same_word(root):
    (root / f"nut/ground_truth/große Delle/{sets.BAD}_mask.png").unlink()
    load(root, missing_masks="ignore")
    test = load(root, missing_masks="ignore", layout="prepared").test
    assert test.has_mask.tolist() == [True, False]
    with pytest.raises(UserError, match="has no mask"):
        load(root, layout="prepared")


def test_two_states_of_a_folder_are_not_chosen_between(root):
    load(root)
    sets.save(root / "nut/train/good/new.png", sets.picture("new"))
    load(root)
    with pytest.raises(UserError, match="found 2 prepared sets of nut at") as error:
        load(root, layout="prepared")
    assert one_line(error).count("nut-32-bilinear-stretch-") == 3  # the pattern and both


def test_names_that_look_alike_in_the_cache_are_told_apart(root):
    sets.make(root, "mvtec", "ä")
    for name in ("ä", "ö"):
        sets.save(root / name / "train/good/new.png", sets.picture(name))
        datasets.prepared_category(sets.options(root, name), sets.SIZE)
    data = sets.options(root, "ö", layout="prepared")
    images = datasets.load_category(data, sets.SIZE).train.images
    np.testing.assert_array_equal(images, sets.picture("ö")[None])


def test_shards_of_another_format_are_named(root):
    config = builder.PicturesConfig(folder=str(root / "nut"), image_size=sets.SIZE)
    made = builder.AnomalyPictures(config=config, data_dir=root.parent / "cache")
    made.download_and_prepare(file_format="tfrecord")
    with pytest.raises(UserError, match="holds tfrecord files, need array_record") as error:
        load(root)
    assert str(made.data_path) in one_line(error)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("write() failed: No space left on device; at byte 7"),  # the shards' writer
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_cache_that_fills_up(root, monkeypatch, failure):
    write = file_adapters.ArrayRecordFileAdapter.write_examples

    def fill_up(path, iterator):
        pathlib.Path(path).write_bytes(b"half a sh")
        next(iter(iterator))
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(file_adapters.ArrayRecordFileAdapter, "write_examples", fill_up)
        with pytest.raises(UserError, match="No space left on device") as error:
            load(root)
    cache = root.parent / "cache"
    assert f"data.cache_dir={cache}: " in one_line(error)
    assert not [path for path in cache.rglob("*") if "array_record" in path.name]
    assert file_adapters.ArrayRecordFileAdapter.write_examples == write
    np.testing.assert_array_equal(load(root).train.images, [sets.picture(s) for s in sets.TRAIN])


def test_a_cache_that_cannot_be_a_folder(root):
    (root.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"data.cache_dir=.*cache: Not a directory"):
        load(root)


TOGETHER = """
import pathlib, sys, time
from input_pipeline import builder
root, me = pathlib.Path(sys.argv[1]), sys.argv[2]
load_record = builder.load_record

def wait_for_the_other(*arguments):
    (root / f"begun-{me}").touch()
    deadline = time.monotonic() + 120
    while len(list(root.glob("begun-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return load_record(*arguments)

builder.load_record = wait_for_the_other
config = builder.PicturesConfig(folder=str(root / "data/nut"), image_size=32)
made = builder.prepare(config, str(root / "cache"))
print(len(list(root.glob("begun-*"))), made.as_data_source("train")[3]["name"].decode())
"""


def test_two_processes_prepare_at_once(root):
    """Each is held in the middle until the other is there too; both end well, with one result."""
    commands = [[sys.executable, "-c", TOGETHER, str(root.parent), me] for me in "ab"]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for command in commands
        ]
        results = [process.communicate(timeout=300) for process in both]
    for process, (out, error) in zip(both, results, strict=True):
        assert process.returncode == 0, error
        assert out.strip() == f"2 train/good/{sets.TRAIN[3]}.png"
    left = [path.name for path in (root.parent / "cache/anomaly_pictures").glob("nut-*/*")]
    assert left == [str(builder.AnomalyPictures.VERSION)]
    np.testing.assert_array_equal(load(root).train.images, [sets.picture(s) for s in sets.TRAIN])


class TinySurfaces(tfds.core.GeneratorBasedBuilder):
    """A public set with an image feature, as dtd is."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        for i in range(2):
            yield i, {"image": sets.picture(f"{split}{i}")}


def test_textures_of_a_public_set(root):
    TinySurfaces(data_dir=root.parent / "cache").download_and_prepare()
    data = options(root, textures="tfds:tiny_surfaces")
    expected = [sets.picture(name) for name in ("test0", "test1", "train0", "train1")]
    np.testing.assert_array_equal(datasets.load_textures(data, sets.SIZE).images, expected)
    for path in (root.parent / "cache/tiny_surfaces").rglob("*tfrecord*"):
        path.unlink()  # written out once, it is not needed again
    np.testing.assert_array_equal(datasets.load_textures(data, sets.SIZE).images, expected)


def test_a_public_set_that_cannot_be_downloaded(root, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Max retries exceeded\nwith url: https://www.robots.ox.ac.uk")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(
        UserError, match=r"data\.textures=tfds:dtd cannot be read or downloaded: Max"
    ) as error:
        datasets.load_textures(options(root, textures="tfds:dtd"), sets.SIZE)
    one_line(error)
    with pytest.raises(
        UserError, match=r"tfds:no_such_set cannot be read or downloaded: .*not found"
    ):
        datasets.load_textures(options(root, textures="tfds:no_such_set"), sets.SIZE)
    assert not list((root.parent / "cache").glob("tfds/*"))


class BuilderCase:
    """In TFDS's own test case: registered, whole, readable, no picture in two splits.

    A category of one layout is TFDS's manual_dir.
    """

    LAYOUT = ""
    DATASET_CLASS = builder.AnomalyPictures
    SPLITS = {"train": 4, "test": 2}  # noqa: RUF012

    @classmethod
    def setUpClass(cls):
        root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.EXAMPLE_DIR = str(sets.make(root, cls.LAYOUT, "nut"))
        cls.BUILDER_CONFIG_NAMES_TO_TEST = [cls.LAYOUT]
        super().setUpClass()


class MvtecTest(BuilderCase, tfds.testing.DatasetBuilderTestCase):
    LAYOUT = "mvtec"


class VisaAsDownloadedTest(BuilderCase, tfds.testing.DatasetBuilderTestCase):
    LAYOUT = "visa_csv"


class DagmAsDownloadedTest(BuilderCase, tfds.testing.DatasetBuilderTestCase):
    LAYOUT = "dagm_raw"


class FolderTest(BuilderCase, tfds.testing.DatasetBuilderTestCase):
    LAYOUT = "folder"
