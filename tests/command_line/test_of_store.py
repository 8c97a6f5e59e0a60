"""What an object store refuses is one line."""

import logging
import sys

import absl.logging
import pytest

from diffad_jax.command_line import arguments, flags


def test_what_a_store_refuses_while_arguments_are_read_is_one_line(monkeypatch):
    kind = type("NotFoundError", (Exception,), {})
    kind.__module__ = "tensorflow.python.framework.errors_impl"

    def refused(argv):
        raise kind("404\n\twhen reading gs://missing/run")

    monkeypatch.setattr(flags, "define", lambda: None)
    monkeypatch.setattr(arguments, "arguments", refused)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit, match=r"^error: 404 when reading gs://missing/run$"):
        arguments.parse(["main.py"])


def test_a_failure_that_orbax_raises_is_not_told_twice(monkeypatch, capsys):
    handler = absl.logging.get_absl_handler()
    monkeypatch.setattr(handler.python_handler, "stream", sys.stderr)
    monkeypatch.setattr(handler, "filters", [])
    monkeypatch.setattr(absl.logging, "set_verbosity", lambda level: None)
    monkeypatch.setattr(logging.Logger, "setLevel", lambda *_: None)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments.set_log_levels()
    for path in ("/site-packages/orbax/checkpoint/future.py", "/site-packages/other/thread.py"):
        try:
            raise ValueError("ABORTED")
        except ValueError:
            place = (path, 1, "it failed", (), sys.exc_info())
            handler.handle(logging.LogRecord("absl", logging.ERROR, *place))
    said = capsys.readouterr().err
    assert said.count("it failed") == said.count("Traceback") + 1 == 2
