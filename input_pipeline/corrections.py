"""What people said about verdicts: a file of JSON lines, read for training and evaluation too."""

import dataclasses
import json

from etils import epath

from configs.errors import UserError

VERDICTS = ("good", "defective")


@dataclasses.dataclass(frozen=True)
class Correction:
    """The word of a person about one picture.

    id: its own, also in the name of its mask; time: of the word, unix seconds; part: the station's
    name for the picture when it was judged; picture: its file as it came, relative to the folder
    of the corrections, "corrections/SHA256.png"; sha256: of that file; name: what it was called,
    for display only.
    verdict: "good" or "defective", what the picture truly is; mask: the file of the region that a
    person painted, relative as well, of the picture's size, 255 where defective; None: no region.
    score, threshold, said: what the station had said; None where it had no threshold.
    """

    id: str
    time: float
    part: str
    picture: str
    sha256: str
    name: str
    verdict: str
    mask: str | None
    score: float | None
    threshold: float | None
    said: str | None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise UserError(f"a verdict is one of {', '.join(VERDICTS)}, not {self.verdict!r}")
        if self.mask and self.verdict == "good":
            raise UserError("a good part has no defect to mark")


def read(file: epath.PathLike) -> list[Correction]:
    """The last word about each picture, the newest first; none where there is no file.

    A picture whose last word was withdrawn has none. A last line without its end, of a program
    that was killed while it wrote, counts as not written.

    Raises:
      UserError: a line that is none of ours.
      OSError: the file cannot be read.
    """
    path = epath.Path(file)
    if not path.exists():
        return []
    words: dict[str, Correction] = {}  # by the picture
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            if set(values) == {"withdrawn"}:
                gone = values["withdrawn"]
                words = {key: word for key, word in words.items() if word.id != gone}
                continue
            word = Correction(**values)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no correction") from error
        words.pop(word.sha256, None)  # so that the order is that of the last words
        words[word.sha256] = word
    return list(words.values())[::-1]
