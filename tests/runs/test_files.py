"""Files written by several at once, and lines that are appended."""

import concurrent.futures
import subprocess
import sys

import pytest
from etils import epath

from configs.errors import of_store
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


def test_a_line_is_appended_after_the_last_whole_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    for line in ("one\n", "", "two \udcff\n"):
        files.append(path, line)
    assert path.read_bytes() == b"one\ntwo \\udcff\n"
    for torn in (b"", b"t", b"three, and then", b"\0" * 9):
        path.write_bytes(b"one\n" + torn)
        files.append(path, "four\n")
        assert path.read_bytes() == b"one\nfour\n"
    path.write_bytes(b"torn")
    files.append(path, "")
    assert path.read_bytes() == b""


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path):
    """A file may have 100 bytes: the system takes a part of the line, then nothing."""
    path = tmp_path / "lines"
    code = """if True:
        import resource, sys
        from diffad_jax.runs import files
        path, most = sys.argv[1], resource.getrlimit(resource.RLIMIT_FSIZE)
        files.append(path, 59 * "a" + "\\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, most[1]))
        try:
            files.append(path, 59 * "b" + "\\n")
        except OSError as error:
            print(error)
        print(len(open(path).read()))
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        files.append(path, 59 * "c" + "\\n")
    """
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path} cannot be written: File too large\n60\n"
    assert path.read_text() == 59 * "a" + "\n" + 59 * "c" + "\n"


def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="/dev/full cannot be written: No space left on device"):
        files.append("/dev/full", "one\n")


def test_what_an_object_store_refuses_names_the_path(tmp_path):
    """Its client's errors are no OSErrors, and begin in modules that need not be imported."""
    kind = type("PermissionDeniedError", (Exception,), {})
    kind.__module__ = "tensorflow.python.framework.errors_impl"
    with pytest.raises(OSError, match=r"gs://b/x cannot be written: 403"), files.named("gs://b/x"):
        raise kind("403")
    with pytest.raises(KeyError), files.named("gs://b/x"):
        raise KeyError("ours")


def test_what_tensorflow_says_of_a_store_is_none_of_a_graph():
    import tensorflow as tf

    assert of_store(tf.errors.PermissionDeniedError(None, None, "no"))
    assert of_store(tf.errors.AbortedError(None, None, "gone"))
    assert not of_store(tf.errors.InvalidArgumentError(None, None, "shapes differ"))
    assert not of_store(ValueError("ours"))
