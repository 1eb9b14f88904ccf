"""Mixtures: of each source so many rows that the sources stand in the shares that their weights ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.checks import Placed
from prefopt.stages.data.reading.naming import content_key
from prefopt.tables.records import digest


def mixed(
    parts: Sequence[list[Placed]], weights: Sequence[float], kind: str, seed: int
) -> list[list[Placed]]:
    """Of each part the rows that stay: as many as its weight allows before the first part is used up.

    Which rows stay depends on their content and the seed alone: those with the lowest hashes, in the order of the file.

    Raises:
        PrefoptError: a share that comes to no row.
    """
    total = sum(weights)
    whole = min(len(part) * total / weight for part, weight in zip(parts, weights, strict=True))
    kept = []
    for part, weight in zip(parts, weights, strict=True):
        count = min(len(part), int(whole * weight / total + 1e-9))
        if part and not count:
            raise PrefoptError(
                f"data.path: weight {weight:g} of {total:g} comes to no row of {len(part)}; raise it"
            )
        order = sorted(
            range(len(part)), key=lambda i: digest("mixture", seed, content_key(part[i][0], kind), i)
        )
        chosen = set(order[:count])
        kept.append([placed for i, placed in enumerate(part) if i in chosen])
    return kept


def mixture_figures(
    names: Sequence[str], parts: Sequence[Sequence[Any]], kept: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Of each source its usable rows, and how many of them are in the mixture."""
    return [
        {"source": name, "rows": len(part), "used": len(used)}
        for name, part, used in zip(names, parts, kept, strict=True)
    ]
