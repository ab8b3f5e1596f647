"""Older versions of the schema, brought up to today's by pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

from configs.raw import as_object
from configs.schema.model import SCHEMA_VERSION

Migration = Callable[[Mapping[str, Any]], dict[str, Any]]

ADDED_IN_5_1_2 = (
    "two_bit_packed_weights",
    "zero_multiply_forward",
    "ternary_mezo_sparse",
    "sparse_grad_w_masking",
)


def from_5_1(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Before 5.1.2 four switches did not exist; a file of that time means them to be off."""
    compute = as_object(raw.get("P3_ternary_compute"))
    switches = None if compute is None else as_object(compute.get("implemented_optimizations"))
    if compute is None or switches is None:
        return {**raw, "_v": SCHEMA_VERSION}
    added = {name: {"status": "OFF"} for name in ADDED_IN_5_1_2 if name not in switches}
    return {
        **raw,
        "_v": SCHEMA_VERSION,
        "P3_ternary_compute": {**compute, "implemented_optimizations": {**switches, **added}},
    }


MIGRATIONS: Mapping[str, Migration] = {"5.1.0": from_5_1, "5.1.1": from_5_1, "5.1": from_5_1}
"""Version of a file → the function that brings it to a later one."""


def migrated(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The file in today's schema; a version that is not known is left for the checks to refuse."""
    version = raw.get("_v", SCHEMA_VERSION)
    while isinstance(version, str) and version in MIGRATIONS:
        raw = MIGRATIONS[version](raw)
        version = raw["_v"]
    return raw
