"""A run's configuration on an object store that cannot be read."""

import sys

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
