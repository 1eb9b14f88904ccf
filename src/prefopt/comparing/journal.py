"""Verdicts kept by content, on the disk as they come: a killed run goes on without asking again, strategies share them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from prefopt.errors import PrefoptError
from prefopt.judges import Verdict


class Journal:
    """Key -> verdict, one JSON line each. path None: memory only. owner: names the run that adds (the stage's key).

    A last line that a kill cut off counts for nothing. Latency is not kept.
    """

    def __init__(self, path: Path | None, owner: str) -> None:
        self.path = path
        self.owner = owner
        self._known: dict[str, tuple[Verdict, bool]] = {}
        self._file: TextIO | None = None
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise PrefoptError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from None
        for line in lines:
            try:
                entry = json.loads(line)
                key, owner = entry.pop("key"), entry.pop("owner")
                self._known[key] = (Verdict(**entry), owner == self.owner)
            except (ValueError, KeyError, TypeError, AttributeError):  # torn, or not ours
                continue

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> tuple[Verdict, bool] | None:
        """The verdict, and whether this run paid for it."""
        return self._known.get(key)

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep verdicts; they are on the disk when this returns."""
        for key, verdict in verdicts.items():
            self._known[key] = (verdict, True)
            if self._file is not None:
                entry = {k: v for k, v in asdict(verdict).items() if k != "latency_s"}
                self._file.write(json.dumps({"key": key, "owner": self.owner, **entry}) + "\n")
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
            except OSError as error:
                raise PrefoptError(
                    f"{self.path}: cannot be written ({error.strerror}); choose another file"
                ) from None
            if self._file.tell():
                self._file.write("\n")  # apart from a line without its end
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
