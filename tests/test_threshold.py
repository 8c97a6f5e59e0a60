import math

import pytest

from diffad_jax import threshold

FOUND = threshold.Threshold(1 / 3, math.nan, "quantile", 0.995, 20, math.nan, 7)


def test_what_is_written_is_read(tmp_path):
    assert threshold.read(tmp_path) is None
    threshold.write(tmp_path, FOUND)
    assert str(threshold.read(tmp_path)) == str(FOUND)  # NaN is not equal to itself
    labelled = threshold.Threshold(0.25, 0.5, "f1_max", None, 83, 0.05, 9)
    threshold.write(tmp_path, labelled)
    assert threshold.read(tmp_path) == labelled


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"image": 1, "pixel": 1, "sauce": 2}'])
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "threshold.json").write_text(content)
    with pytest.raises(ValueError, match=r"threshold\.json is not a threshold"):
        threshold.read(tmp_path)
