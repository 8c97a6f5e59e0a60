"""Nested dicts of settings by dotted key, and what is different between two."""

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested dict by dotted key, tuples as the lists that a JSON file has."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two nested dicts, as 'key: old -> new' lines."""
    a, b = flat(old), flat(new)
    keys = sorted(key for key in a | b if a.get(key) != b.get(key))
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in keys]
