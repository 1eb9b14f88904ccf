"""A file of records, one JSON line each, written as they come: what a killed process wrote is read by the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prefopt.errors import PrefoptError


class Journal:
    """Context: `known` holds the records of earlier runs, `add` appends one and hands it to the system at once.

    A line that a kill cut short is taken off; lines that cannot be read are passed over.

    Raises:
        PrefoptError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)
            self._file.seek(0)
            content = self._file.read()
            whole = content.rfind(b"\n") + 1
            self._file.truncate(whole)
        except OSError as error:
            raise self._failed(error) from None
        self.known = [record for line in content[:whole].splitlines() if (record := _record(line))]
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record (JSON values)."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            # a full disk may take a part of the line: the rest of it, or an error
            while line:
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            raise self._failed(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> PrefoptError:
        return PrefoptError(
            f"{self.path}: cannot be written ({error.strerror}); what was stored before is kept, start again"
        )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
