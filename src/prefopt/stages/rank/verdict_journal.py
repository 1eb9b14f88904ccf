"""Verdicts kept by content, on the disk as they come: a killed run goes on without asking again, strategies share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from prefopt.judges import Verdict
from prefopt.tables.journal import Journal


class VerdictJournal:
    """Key -> verdict in a journal. path None: memory only. owner: names the run that adds (the stage's key).

    Latency is not kept.
    """

    def __init__(self, path: Path | None, owner: str) -> None:
        self.owner = owner
        self._journal = Journal(path)
        self._known: dict[str, tuple[Verdict, bool]] = {}
        for entry in self._journal.read():
            try:
                key, made_by = entry.pop("key"), entry.pop("owner")
                self._known[key] = (Verdict(**entry), made_by == owner)
            except (KeyError, TypeError):  # not ours
                self._journal.set_aside += 1
        self._journal.tell("their comparisons are made again")

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> tuple[Verdict, bool] | None:
        """The verdict, and whether this run paid for it."""
        return self._known.get(key)

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep verdicts; they are on the disk when this returns."""
        self._known |= {key: (verdict, True) for key, verdict in verdicts.items()}
        self._journal.add(*(self._entry(key, verdict) for key, verdict in verdicts.items()), sync=True)

    def _entry(self, key: str, verdict: Verdict) -> dict[str, object]:
        kept = {name: value for name, value in asdict(verdict).items() if name != "latency_s"}
        return {"key": key, "owner": self.owner, **kept}

    def __enter__(self) -> VerdictJournal:
        self._journal.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)
