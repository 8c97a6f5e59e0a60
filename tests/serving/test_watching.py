"""A watched folder: every picture once, whatever happens to it."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.reporting import drawing
from diffad_jax.serving import station, watching
from tests.serving import toy_line
from tests.serving.toy_line import SETTLE, fill, names, rows, table, until


def test_lines_maps_and_overlays_are_those_of_predict(place, watch):
    fill(place, 3)
    watch()
    output = place.parent / "out"
    until(lambda: len(rows(output)) == 3)
    watch.stop()
    for seed, (row, line) in enumerate(zip(rows(output), table(output), strict=True)):
        file = place / f"{seed:03}.png"
        picture = np.asarray(Image.open(file))
        red = picture[..., 0].astype(np.float32) / 255
        assert tuple(line) == COLUMNS and tuple(row) == (*COLUMNS, "size", "mtime_ns")
        assert row["picture"] == file.name and row["error"] is None
        assert row["score"] == float(red.mean()) and row["threshold"] == 0.5
        assert row["verdict"] == ("defective" if row["score"] >= 0.5 else "good")
        assert row["confidence"] == pytest.approx(1 / (1 + (0.5 / row["score"]) ** 2))
        assert (row["width"], row["height"]) == (12, 10)
        assert row["map"] == f"maps/{file.name}.png"
        levels = np.asarray(Image.open(output / row["map"]))
        assert levels.dtype == np.uint16
        np.testing.assert_array_equal(levels, np.round(red * 65535))
        framed = [] if row["verdict"] == "good" else row["boxes"]
        corners = [(box["x"], box["y"], box["width"], box["height"]) for box in framed]
        drawn = drawing.frames(drawing.overlay(picture, red, 1.0), corners)
        np.testing.assert_array_equal(np.asarray(Image.open(output / row["overlay"])), drawn)
        assert (row["size"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
        assert line["boxes"] == str(len(row["boxes"])) and line["score"] == str(row["score"])
    assert any(row["verdict"] == "good" and row["boxes"] for row in rows(output))


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_that_grows_is_judged_when_it_is_whole(place, watch, closed):
    """In pieces; kept open, or opened anew for each."""
    line = watch(settle=2.0)
    data, output = toy_line.picture(1), place.parent / "out"
    file = place / "slow.png"
    with file.open("wb", buffering=0) as kept:
        for start in range(0, len(data), 60):
            piece = data[start : start + 60]
            if closed:
                with file.open("ab") as again:
                    again.write(piece)
            else:
                kept.write(piece)
            time.sleep(0.03)
    fill(place, 1)
    until(lambda: len(rows(output)) == 2)
    watch.stop()
    assert sorted(names(output)) == ["000.png", "slow.png"]
    assert not any(row["error"] for row in rows(output))
    assert closed or line.counts["unreadable"] == 0


def test_another_picture_under_the_same_name_is_judged_again(place, watch):
    fill(place, 2)
    watch()
    output = place.parent / "out"
    until(lambda: len(rows(output)) == 2)
    (place / "000.png").write_bytes(toy_line.picture(8))
    until(lambda: len(rows(output)) == 3)
    watch.stop()
    assert names(output) == ["000.png", "001.png", "000.png"]
    assert rows(output)[0]["score"] != rows(output)[2]["score"]
    os.utime(place / "001.png", ns=(0, 5))  # while nobody watched
    watch()
    until(lambda: len(rows(output)) == 4)
    watch.stop()
    assert names(output)[3] == "001.png" and rows(output)[1]["score"] == rows(output)[3]["score"]


def test_names_folders_and_what_is_left_alone(place, watch):
    line, output, data = watch(), place.parent / "out", toy_line.picture(3)
    odd = os.fsdecode(b"odd\xff.png")
    (place / "a/b").mkdir(parents=True)
    for name in ("new.part", ".hidden.png", "moved.tmp", "notes.txt", "x.png.part", "Thumbs.db"):
        (place / name).write_bytes(data)
    (place / ".folder").mkdir()
    (place / ".folder/in.png").write_bytes(data)
    (place / "new.part").rename(place / "new.png")
    (place / odd).write_bytes(data)
    (place / "a/b/x.png").write_bytes(data)
    (place.parent / "whole.png").write_bytes(data)
    (place.parent / "whole.png").rename(place / "whole.png")
    wanted = ["a/b/x.png", "new.png", odd, "whole.png"]
    until(lambda: len(rows(output)) == 4)
    time.sleep(4 * SETTLE)  # one more rescan
    watch.stop()
    assert sorted(names(output)) == wanted
    assert sorted(row["picture"] for row in table(output)) == [
        "a/b/x.png",
        "new.png",
        r"odd\udcff.png",
        "whole.png",
    ]
    assert (output / f"maps/{odd}.png").exists() and (output / "maps/a/b/x.png.png").exists()
    assert sum(line.counts.values()) == 4  # seen in many scans, judged once
    line = watch()  # knows them all
    fill(place, 1)
    until(lambda: len(rows(output)) == 5)
    assert names(output)[4] == "000.png" and sum(line.counts.values()) == 1


def test_many_pictures_wait_for_room(place, watch):
    fill(place, 100)
    line, output = watch(limits={"most_waiting": 4}), place.parent / "out"
    until(lambda: len(rows(output)) == 100)
    assert line.counts["dropped"] == 0 and not line.problems
    assert sum(line.counts.values()) == 100


def test_what_the_station_no_longer_keeps_is_written(place, watch):
    """As of pictures of 20 megapixels, of which its memory holds one."""
    fill(place, 20)
    watch(limits={"kept_bytes": 1000})
    output = place.parent / "out"
    until(lambda: len(rows(output)) == 20)
    assert all((output / row[kind]).exists() for row in rows(output) for kind in ("map", "overlay"))


def test_what_was_submitted_is_written_before_the_end(place, watch):
    fill(place, 8)
    line, output = watch(seconds=0.05), place.parent / "out"
    until(lambda: sum(line.counts.values()) >= 1)
    watch.stop()
    judged = line.counts["good"] + line.counts["defective"]
    assert names(output) == [f"{seed:03}.png" for seed in range(judged)] and 1 <= judged <= 8


def test_wrong_use(place):
    line = station.Station(toy_line.served(), folder=place)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere to watch"):
        watching.Watcher(line, place / "nowhere", place.parent)
    with pytest.raises(UserError, match="lies in the watched folder"):
        watching.Watcher(line, place, place / "out")
    line.close()
