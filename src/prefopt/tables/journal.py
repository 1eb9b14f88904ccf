"""A file of records that only grows, one JSON line each: what a killed process wrote is read by the next one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from prefopt.core.errors import PrefoptError


class Journal:
    """Context in which `add` appends records and hands them to the system at once. path None: nothing is kept.

    A line that a kill cut short is set apart from the next one, never taken off: another process may be writing it.
    set_aside: lines that cannot be used, by `read` and by whoever makes something of the records.

    Raises:
        PrefoptError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.set_aside = 0
        self._file: BinaryIO | None = None

    def read(self) -> list[dict[str, Any]]:
        """The records of earlier runs, in order; lines that cannot be read (torn, or not ours) are set aside."""
        if self.path is None or not self.path.is_file():
            return []
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PrefoptError(f"{self.path}: cannot be read ({error.strerror}); mend or remove it") from None
        lines = [line for line in content.split(b"\n") if line.strip()]
        records = [record for line in lines if (record := _record(line)) is not None]
        self.set_aside += len(lines) - len(records)
        return records

    def tell(self, outcome: str) -> None:
        """Say on stderr how many lines were set aside; outcome: what becomes of what they stood for."""
        if self.set_aside:
            plural = "s" if self.set_aside > 1 else ""
            print(f"{self.path}: {self.set_aside} line{plural} cannot be used; {outcome}", file=sys.stderr)

    def add(self, *records: Mapping[str, Any], sync: bool = False) -> None:
        """Append records (JSON values). sync: they are on the disk when this returns, whatever the power does."""
        if self._file is None:
            return
        try:
            _write(self._file, b"".join(json.dumps(record).encode() + b"\n" for record in records))
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def __enter__(self) -> Self:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a+b", buffering=0)
                if self._file.tell():
                    self._file.seek(-1, os.SEEK_END)
                    if self._file.read(1) != b"\n":
                        _write(self._file, b"\n")
            except OSError as error:
                raise self._failed(error) from None
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _failed(self, error: OSError) -> PrefoptError:
        return PrefoptError(
            f"{self.path}: cannot be written ({error.strerror}); what was stored before is kept: mend this or choose "
            "another file, and start again"
        )


def _write(file: BinaryIO, content: bytes) -> None:
    # a full disk may take a part: the rest of it, or an error
    while content:
        content = content[file.write(content) or 0 :]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
