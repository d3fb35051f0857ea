"""What the state.json of a checkpoint says, whoever wrote it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FORMAT = "visgen_fast checkpoint 2"
SHARDED = "visgen_fast checkpoint 3"  # of which versions that know no shards can read nothing
_TYPES: dict[str, type] = {"step": int, "settings": dict, "images": dict, "sha256": dict, "frozen": dict, "ranks": int}
_HASH = re.compile(r"[0-9a-f]{64}")
# A shard's file without its suffix, as torch.distributed.checkpoint names it.
_SHARD = re.compile(r"shards/shard-\d{5,}-model-00001-of-00001")


class Damage(Exception):
    """What is wrong with a checkpoint."""


def checked(state: dict[str, Any]) -> dict[str, Any]:
    """What state.json says, where it says all that it must; else raises `Damage`."""
    for name, kind in _TYPES.items():
        if type(state.get(name)) is not kind:
            raise Damage(f"state.json has no {name!r} of type {kind.__name__}")
    if not all(isinstance(sha256, str) and _HASH.fullmatch(sha256) for sha256 in state["frozen"].values()):
        raise Damage("state.json names its frozen modules by other than SHA-256")
    if state.get("format") == SHARDED and not (state["sha256"] and all(map(_SHARD.fullmatch, state["sha256"]))):
        raise Damage("state.json names its shards by other than their files")
    return state


def weights_hash(state: Mapping[str, Any]) -> str:
    """What tells the averaged weights of the checkpoint that says this from all others."""
    hashes = state["sha256"]
    return hashes.get("average") or hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
