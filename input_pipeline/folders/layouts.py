"""How the folders of data sets are arranged: one row of a table for each, and which one fits."""

import logging
import pathlib

from configs.errors import UserError
from input_pipeline.folders import listing
from input_pipeline.folders.scan import (
    GOOD_NAMES,
    Layout,
    NoGoodPictures,
    Record,
    check_masks,
    scan,
    table_of,
    unused,
)
from input_pipeline.folders.side_files import MASK_FOLDERS, SUFFIXES

logger = logging.getLogger(__name__)

_SOURCE = "That of the source folder"
_TRAIN = tuple(f"train/{name}" for name in GOOD_NAMES)

LAYOUTS = {
    "visa_csv": Layout(
        table="split_csv/1cls.csv",
        description="VisA as downloaded: pictures and masks (small integers) where the table of "
        "the one-class split says.",
        citation="Y. Zou, J. Jeong, L. Pemula, D. Zhang, O. Dabeer: SPot-the-Difference "
        "self-supervised pre-training for anomaly detection and segmentation. ECCV 2022.",
        licence=f"{_SOURCE}; VisA itself: CC BY 4.0.",
    ),
    "dagm_raw": Layout(
        train=("Train",),
        test="Test",
        masks=("{folder}/Label/{stem}_label",),
        by_mask=True,
        description="DAGM 2007 as downloaded: Train and Test hold good and defective pictures, "
        "and a Label for each defective one. Those in Train are not used.",
        citation="M. Wieler, T. Hahn: Weakly supervised learning for industrial optical "
        "inspection. 29th annual symposium of the German Association for Pattern Recognition, "
        "2007.",
        licence=f"{_SOURCE}.",
    ),
    "mvtec": Layout(
        train=_TRAIN,
        test="test",
        masks=("ground_truth/{defect}/{stem}_mask",),
        description="Good training pictures, good and defective test pictures and their masks, in "
        "the folder layout of MVTec AD, which MPDD shares.",
        citation="P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: MVTec AD, a comprehensive "
        "real-world dataset for unsupervised anomaly detection. CVPR 2019. MPDD: S. Jezek, "
        "M. Jonak, R. Burget, P. Dvorak, M. Skotak: Deep learning-based defect detection of metal "
        "parts. ICUMT 2021.",
        licence=f"{_SOURCE}; MVTec AD itself: CC BY-NC-SA 4.0.",
    ),
    "visa": Layout(
        train=_TRAIN,
        test="test",
        masks=("ground_truth/{defect}/{stem}",),
        description="VisA's one-class split in folders; a mask has the name of its picture.",
        citation="Y. Zou, J. Jeong, L. Pemula, D. Zhang, O. Dabeer: SPot-the-Difference "
        "self-supervised pre-training for anomaly detection and segmentation. ECCV 2022.",
        licence=f"{_SOURCE}; VisA itself: CC BY 4.0.",
    ),
    "dagm": Layout(
        train=_TRAIN,
        test="test",
        masks=("ground_truth/{defect}/{stem}_label",),
        description="DAGM 2007 in the folders of MVTec AD.",
        citation="M. Wieler, T. Hahn: Weakly supervised learning for industrial optical "
        "inspection. 29th annual symposium of the German Association for Pattern Recognition, "
        "2007.",
        licence=f"{_SOURCE}.",
    ),
    "folder": Layout(
        train=(*_TRAIN, "train", *GOOD_NAMES, ""),
        test="test",
        masks=(
            *(f"{top}/{{defect}}/{{stem}}{end}" for top in MASK_FOLDERS for end in SUFFIXES),
            *(f"{top}/{{stem}}{end}" for top in MASK_FOLDERS for end in SUFFIXES),
        ),
        beside=True,
        description="Your own: good pictures in the folder itself, in good, train or train/good "
        "(or ok, normal); test pictures, if any, in test/good and a folder for each defect; masks, "
        "if any, in ground_truth, masks, mask, gt or labels, or beside the pictures.",
        citation="",
        licence=f"{_SOURCE}.",
    ),
    "textures": Layout(
        train=("",),
        foreground=(),
        recursive=True,
        category=False,
        description="Surface pictures that synthetic anomalies are made from: any pictures under "
        "a folder, such as images/TEXTURE/*.jpg of DTD.",
        citation="M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed, A. Vedaldi: Describing textures in "
        "the wild. CVPR 2014.",
        licence=f"{_SOURCE}; DTD itself: for research purposes only.",
    ),
}
_IN_FOLDERS = ("mvtec", "visa", "dagm")


def recognise(folder: pathlib.Path) -> tuple[str, list[Record]]:
    """The layout that a category's folder has, and what `scan` finds by it, masks or none.

    A data set as downloaded where its table lists the category, or its Label folders are there;
    else the one whose naming finds every mask that can be found, and any; else `folder`.

    Raises:
      UserError: none fits: says what was looked for; or there is a table that cannot be read.
    """
    if records := _in_table(folder):
        return "visa_csv", records
    if records := _with_labels(folder):
        return "dagm_raw", records
    own = scan(folder, LAYOUTS["folder"], "ignore")
    any_naming = _masks(own)
    for name in _IN_FOLDERS if any_naming else ():
        records = _try(folder, name)
        if _masks(records) == any_naming:
            return name, records
    return "folder", own


def _in_table(folder: pathlib.Path) -> list[Record]:
    """What VisA's table lists of the category, where it is there."""
    table = table_of(folder, LAYOUTS["visa_csv"])
    if not folder.is_dir() or not table.is_file():
        return []
    try:
        return scan(folder, LAYOUTS["visa_csv"], "ignore")
    except NoGoodPictures as error:
        logger.info("layout of %s: not that of the table beside it: %s", folder, error)
        return []


def _with_labels(folder: pathlib.Path) -> list[Record]:
    """The pictures where they lie as DAGM's do, with a folder of labels beside them."""
    places = [listing.place(folder, split) for split in ("Train", "Test")]
    if not any(
        listing.pictures_under(place) and listing.pictures_under(listing.place(place, "Label"))
        for place in places
    ):
        return []
    try:
        records = scan(folder, LAYOUTS["dagm_raw"], "ignore")
    except NoGoodPictures:
        return []
    return records if _masks(records) else []


def _try(folder: pathlib.Path, name: str) -> list[Record]:
    """What a layout finds; nothing where it does not fit."""
    try:
        return scan(folder, LAYOUTS[name], "ignore")
    except UserError:
        return []


def _masks(records: list[Record]) -> set[str]:
    """Those of test pictures."""
    return {record.mask for record in records if record.mask and record.split == "test"}


def resolve(
    folder: pathlib.Path, layout: str, missing_masks: str = "error"
) -> tuple[str, list[Record]]:
    """`layout`, or what 'auto' stands for, and the pictures; what is not used is logged.

    Raises:
      UserError: as `recognise` and `scan.scan`.
    """
    if layout == "auto":
        layout, records = recognise(folder)
        logger.info("layout of %s: %s (data.layout names another)", folder, layout)
    else:
        records = scan(folder, LAYOUTS[layout], "ignore")
    for where, what in unused(folder, records):
        logger.warning("%s: %s", folder / where, what)
    check_masks(folder, LAYOUTS[layout], records, missing_masks)
    return layout, records


def categories(root: pathlib.Path, layout: str) -> list[str]:
    """Names of the folders under `root` that are categories, sorted.

    A folder is one where good training pictures are found in it.

    Raises:
      UserError: no such folder, or no category in it; or the layout is 'prepared'.
    """
    if layout == "prepared":
        raise UserError("data.layout=prepared has no folders to look at: name one data.category")
    root = pathlib.Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    folders = listing.readable(root).folders
    found = [folder.name for folder in folders if _is_category(folder, layout)]
    if not found:
        raise UserError(
            f"no category in {root}: none of its {len(folders)} folders has good pictures"
        )
    return found


def chosen(category: str, root: pathlib.Path, layout: str) -> list[str]:
    """The categories that `data.category` names: 'all', or one or more with commas between."""
    if category == "all":
        return categories(root, layout)
    return [name.strip() for name in category.split(",") if name.strip()]


def _is_category(folder: pathlib.Path, layout: str) -> bool:
    try:
        if layout == "auto":
            recognise(folder)
        else:
            scan(folder, LAYOUTS[layout], "ignore")
    except NoGoodPictures:
        return False
    return True
