"""The output folder of a verb that keeps its answers while it works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.lock import working_in
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import Claims, OwnedFolder


@contextmanager
def verb_folder(output: Path, claims: Claims, inputs: Iterable[Path] = ()) -> Iterator[None]:
    """Context: one process works in the folder, which is new, empty or of the same verb.

    Raises:
        PrefoptError: it holds other things or an input, or another process works there.
    """
    check_apart(output, [("input", path) for path in inputs])
    folder = OwnedFolder(output, claims)
    folder.check()
    with working_in(output):
        folder.begin(claims.stage)
        yield
        folder.close()


def context_in(output: Path, claims: Claims, seed: int) -> Context:
    """A context in which answers are kept beneath `output` as they are written."""
    return Context(seed=seed, folder=StageFolder(output, claims))
