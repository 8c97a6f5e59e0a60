"""What slurm.sh and mpi.sh need besides a shell: tiny pictures, and whether two runs are alike.

python -m benchmarks.cluster.check pictures FOLDER NAME ...
python -m benchmarks.cluster.check same RUN OTHER

`same` ends with 1 unless the newest checkpoints are of one step and equal in every bit of every
array, and the log lines and the scores of the last evaluation are equal, too.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from configs import schema, stored
from diffad_jax.runs import checkpoint, sharding
from diffad_jax.scoring import scorer

SIZE = 32  # px
MEASURED = ("images_per_second", "input_wait")  # times: they differ from run to run


def pictures(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Write categories in MVTec AD layout: 9 good pictures, 5 to test, 2 of them with a spot."""
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        for i in range(14):
            picture = rng.normal(120, 6, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
            place = "train/good" if i < 9 else "test/good"
            if i in (11, 13):
                place, mask = "test/spot", np.zeros((SIZE, SIZE), np.uint8)
                mask[i : i + 8, 8:20] = 255
                picture[mask > 0] = (200, 20, 20)
                _save(folder / name / f"ground_truth/spot/{i:03}_mask.png", mask)
            _save(folder / name / place / f"{i:03}.png", picture)


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def digest(run: pathlib.Path) -> tuple[int, int, str]:
    """Step of the newest checkpoint, its number of arrays, and a digest of all their bits."""
    target = scorer.restore_target(schema.parse(stored.get_config(run)), sharding.data_mesh())
    with checkpoint.Checkpoints(run, writer=False) as checkpoints:
        leaves = jax.tree.leaves(jax.device_get(checkpoints.restore(target)))
        step = checkpoints.latest
    total = hashlib.blake2b(digest_size=8)
    for leaf in map(np.asarray, leaves):
        total.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return step, len(leaves), total.hexdigest()


def logged(run: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, without what is measured."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def same(run: pathlib.Path, other: pathlib.Path) -> bool:
    """Print what is compared; whether all of it is equal."""
    found = [digest(run), digest(other)]
    for folder, (step, count, code) in zip((run, other), found, strict=True):
        print(f"  {folder.parent.name}/{folder.name}: step {step}, {count} arrays, digest {code}")
    scores = f"eval/{found[0][0]}/scores.csv"
    equal = {
        "weights": found[0] == found[1],
        "log": logged(run) == logged(other),
        "scores": (run / scores).read_bytes() == (other / scores).read_bytes(),
    }
    print("  equal:", ", ".join(name for name, is_equal in equal.items() if is_equal) or "nothing")
    return all(equal.values())


def main(argv: Sequence[str]) -> int:
    """Do what the first argument says; returns the exit status."""
    _, what, first, *rest = argv
    if what == "pictures":
        pictures(pathlib.Path(first), rest)
        return 0
    return 0 if same(pathlib.Path(first), pathlib.Path(rest[0])) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
