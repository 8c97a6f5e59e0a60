"""Files written by several at once."""

import concurrent.futures

from etils import epath

from diffad_jax.runs import files

WRITES = 500


def test_two_writers_of_one_file_never_leave_a_half(tmp_path):
    """As a training and an evaluation beside it that write the same threshold."""
    path = epath.Path(tmp_path) / "threshold.json"
    contents = [letter * 20_000 for letter in ("a", "b")]
    files.write(path, contents[0])

    def work(content):
        for _ in range(WRITES):
            files.write(path, content)
            assert path.read_text() in contents

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, content) for content in contents]:
            done.result()
    assert [p.name for p in tmp_path.iterdir()] == ["threshold.json"]
