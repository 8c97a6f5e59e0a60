"""The builder in TFDS's own test case: registered, whole, readable, no picture in two splits."""

import pathlib
import tempfile

import tensorflow_datasets as tfds

from input_pipeline import builder
from tests.support import sets


class BuilderCase:
    """A category of one layout as TFDS's manual_dir."""

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
