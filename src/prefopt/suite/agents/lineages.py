"""Lineages: agents of one PPO seed each, the unit of replication, and those that are shipped with the package.

A statement about a loss is one about agents that were not seen when it was made, so figures are means over lineages and
their errors are spread over lineages. No lineage serves two purposes. Agents do not repeat bit for bit on another
processor, therefore the policies of the lineages named here lie in `shipped/`, with their hashes and returns in an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.suite.simulator.policy import Params
from prefopt.suite.store import load_arrays, read_json, save_arrays
from prefopt.tables.records import digest, write_json

SHIPPED = Path(__file__).parent / "shipped"
NAMES = ("reference", "expert")


@dataclass(frozen=True)
class Roles:
    """PPO seeds by purpose."""

    tuning: tuple[int, ...]
    search: tuple[int, ...]
    reporting: tuple[int, ...]


def _split(tuning: int, search: int, reporting: int) -> Roles:
    seeds = tuple(range(1, 1 + tuning + search + reporting))
    return Roles(seeds[:tuning], seeds[tuning : tuning + search], seeds[tuning + search :])


HOPPER_ROLES, ANT_ROLES = _split(4, 4, 8), _split(2, 2, 4)


def roles(environment: str) -> Roles:
    """The lineages of an environment by purpose."""
    return ANT_ROLES if "ant" in environment else HOPPER_ROLES


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(settings: Mapping[str, Any]) -> str:
    return digest("lineage", dict(settings))


def _index(environment: str, folder: Path) -> dict[str, Any]:
    return read_json(folder / f"{environment}.json") or {"lineages": []}


def shipped(
    settings: Mapping[str, Any], folder: Path = SHIPPED
) -> tuple[list[Params], dict[str, Any]] | None:
    """The policies (reference, expert) and figures shipped for exactly these settings of agents, None where there are none.

    Raises:
        PrefoptError: a shipped file is missing or is not the one that its hash names.
    """
    for row in _index(str(settings["environment"]), folder)["lineages"]:
        if row["key"] == _key(settings):
            return [_policy(folder, row, name) for name in NAMES], row["figures"]
    return None


def _policy(folder: Path, row: Mapping[str, Any], name: str) -> Params:
    path = folder / row["files"][name]
    if not path.exists() or file_hash(path) != row["sha256"][name]:
        raise PrefoptError(
            f"{path}: not the policy that was shipped (SHA-256 differs); install prefopt again"
        )
    return load_arrays(path)


def ship(
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    policies: Mapping[str, Params],
    folder: Path = SHIPPED,
) -> None:
    """Puts reference and expert of these settings into `folder` and its index, in place of an older entry of the same seed."""
    environment, seed = str(settings["environment"]), int(settings["seed"])
    files = {name: f"{environment}-{seed:02d}-{name}.safetensors" for name in NAMES}
    for name, file in files.items():
        save_arrays(folder / file, policies[name])
    row = {
        "seed": seed, "key": _key(settings), "settings": dict(settings), "figures": dict(figures), "files": files,
        "sha256": {name: file_hash(folder / file) for name, file in files.items()},
    }  # fmt: skip
    others = [old for old in _index(environment, folder)["lineages"] if old["seed"] != seed]
    rows = sorted([*others, row], key=lambda each: each["seed"])
    write_json(folder / f"{environment}.json", {"environment": environment, "lineages": rows})
