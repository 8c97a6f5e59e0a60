"""How the folders of a data set are arranged: one row of a table for each, and the search by it."""

import dataclasses
import pathlib

from input_pipeline.pictures import EXTENSIONS

GOOD = "good"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the files of one category lie, relative to its folder.

    `{defect}` stands for the sub-folder of a test picture and `{stem}` for a picture's file name
    without its extension; masks and foregrounds may have any picture extension.
    """

    train: str  # folder of good training pictures
    test: str  # folder with one sub-folder for each defect and one named good; "": no test split
    mask: str  # path of a defective picture's mask; the picture's non-zero pixels are the defect
    foreground: str  # path of a training picture's foreground (optional files); "": none
    recursive: bool  # training pictures may lie in sub-folders
    category: bool  # has masks, defects and foregrounds; else pictures and nothing more
    description: str
    citation: str
    licence: str


LAYOUTS = {
    "mvtec": Layout(
        train="train/good",
        test="test",
        mask="ground_truth/{defect}/{stem}_mask",
        foreground="DISthresh/good/{stem}",
        recursive=False,
        category=True,
        description="Good training pictures, good and defective test pictures and their masks, in "
        "the folder layout of MVTec AD.",
        citation="P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: MVTec AD, a comprehensive "
        "real-world dataset for unsupervised anomaly detection. CVPR 2019.",
        licence="That of the source folder; MVTec AD itself: CC BY-NC-SA 4.0.",
    ),
    "textures": Layout(
        train="",
        test="",
        mask="",
        foreground="",
        recursive=True,
        category=False,
        description="Surface pictures that synthetic anomalies are made from: any pictures under "
        "a folder, such as images/TEXTURE/*.jpg of DTD.",
        citation="M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed, A. Vedaldi: Describing textures in "
        "the wild. CVPR 2014.",
        licence="That of the source folder; DTD itself: for research purposes only.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture on disk. Paths are relative to the category's folder, with forward slashes."""

    split: str  # train or test
    picture: str
    mask: str  # "": none
    foreground: str  # "": none
    defect: str  # good, or the kind of defect

    @property
    def has_mask(self) -> bool:
        """Whether the mask is known: a good test picture's is empty."""
        return bool(self.mask) or (self.split == "test" and self.defect == GOOD)


def scan(folder: pathlib.Path, layout: Layout, missing_masks: str = "error") -> list[Record]:
    """The pictures of one category, sorted by split (train first) and name.

    Only lists folders: no file is opened. Hidden files and other extensions are passed over.

    Raises:
      ValueError: no such folder; no good training pictures; a defective test picture without its
        mask while `missing_masks` is 'error'.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    train = _pictures_under(folder / layout.train, layout.recursive)
    if not train:
        known = " ".join(EXTENSIONS)
        raise ValueError(f"no good pictures: {folder / layout.train} holds no file in {known}")
    listing = _Listing(folder)
    records = [
        Record("train", _relative(p, folder), "", listing.find(layout.foreground, p), GOOD)
        for p in train
    ]
    if not layout.test or not (folder / layout.test).is_dir():
        return records
    for sub in sorted(p for p in (folder / layout.test).iterdir() if p.is_dir()):
        for picture in _pictures_under(sub, False):
            mask = "" if sub.name == GOOD else listing.find(layout.mask, picture)
            if sub.name != GOOD and not mask and missing_masks == "error":
                wanted = folder / layout.mask.format(defect=sub.name, stem=picture.stem)
                raise ValueError(f"{picture} has no mask: {wanted}.png is missing")
            records.append(Record("test", _relative(picture, folder), mask, "", sub.name))
    return records


class _Listing:
    """Finds files whose extension is not known, reading each folder once."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._stems: dict[pathlib.Path, dict[str, pathlib.Path]] = {}

    def find(self, template: str, picture: pathlib.Path) -> str:
        """Relative path of the file that belongs to `picture`, or ''."""
        if not template:
            return ""
        path = self._folder / template.format(defect=picture.parent.name, stem=picture.stem)
        if path.parent not in self._stems:
            files = _pictures_under(path.parent, False)
            self._stems[path.parent] = {file.stem: file for file in files}
        found = self._stems[path.parent].get(path.name)
        return _relative(found, self._folder) if found else ""


def _pictures_under(folder: pathlib.Path, recursive: bool) -> list[pathlib.Path]:
    """Picture files of a folder, sorted by path; [] when there is no such folder."""
    if not folder.is_dir():
        return []
    files = folder.rglob("*") if recursive else folder.iterdir()
    wanted = (f for f in files if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    return sorted((f for f in wanted if f.is_file()), key=lambda f: f.as_posix())


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()
