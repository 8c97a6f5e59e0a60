"""Whether an exported model calls pictures as its run's evaluation did.

python -m benchmarks.verdicts runs/quickstart/eval/220/scores.csv judged/predictions.csv

Prints how many verdicts are equal and the largest difference of a score; ends with 1, naming them,
where pictures differ.
"""

import csv
import sys
from collections.abc import Sequence


def rows(path: str) -> dict[str, dict[str, str]]:
    """Lines of a table by the picture's place below its test folder."""
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return {(row.get("picture") or row["name"]).removeprefix("test/"): row for row in table}


def main(argv: Sequence[str]) -> int:
    """Compare two tables; returns the exit status."""
    evaluated, judged = rows(argv[1]), rows(argv[2])
    alone = sorted(evaluated.keys() ^ judged.keys())
    both = evaluated.keys() & judged.keys()
    turned = sorted(name for name in both if evaluated[name]["verdict"] != judged[name]["verdict"])
    scores = [abs(float(evaluated[name]["score"]) - float(judged[name]["score"])) for name in both]
    print(
        f"{len(both) - len(turned)} of {len(both)} verdicts are equal, scores within "
        f"{max(scores, default=0.0):.1e}"
    )
    for told, names in (("in one table alone", alone), ("of another verdict", turned)):
        if names:
            print(f"{told}: {', '.join(names)}", file=sys.stderr)
    return 1 if alone or turned or not both else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
