"""`data.path`: one source or several -> the files and hub data sets that they name, with shares where they are mixed.

pairs.jsonl                       a file               data/            all data files of a folder
data/part-*.jsonl                 a pattern            s3://bucket/x    a file elsewhere (fsspec)
owner/name:subset                 a hub data set       lf/dataset_info.json   an entry of a registry (data.split)
[a.jsonl, {path: b.jsonl, weight: .2}]
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading import readers, registry
from prefopt.stages.data.reading.checks import Placed
from prefopt.stages.data.reading.remote import fetched, is_remote
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.records import Row, digest


def _same(row: Row) -> Row:
    return row


@dataclass(frozen=True)
class Source:
    """What one entry of `data.path` names. name: as messages say it. files: (path or hub name, how messages call it)."""

    name: str
    files: tuple[tuple[str, str], ...]
    split: str | None
    columns: Mapping[str, str]
    weight: float | None = None
    translate: Callable[[Row], Row] = _same

    def rows(self, limit: int | None) -> Iterator[Placed]:
        """The rows of all files, each with the words that say where it stood."""
        return itertools.islice(self._rows(), limit)

    def _rows(self) -> Iterator[Placed]:
        for file, called in self.files:
            try:
                for row, where in readers.read_rows(file, self.split):
                    yield self.translate(row), where if file == called else where.replace(file, called, 1)
            except PrefoptError as error:
                raise PrefoptError(str(error).replace(file, called, 1)) from None

    @property
    def digest(self) -> str:
        """A name for the content of all files; that of a single file is the file's own."""
        found = [readers.source_digest(file, self.split) for file, _ in self.files]
        return found[0] if len(found) == 1 else digest("files", found)


def sources_of(config: DataConfig) -> list[Source]:
    """The sources of `data.path`, files and patterns resolved.

    Raises:
        PrefoptError: no path, something that is not there, or weights for some sources only.
    """
    given = [config.path] if isinstance(config.path, str) else config.path
    if not given:
        raise PrefoptError("data.path is empty; give a file, e.g. --data FILE.jsonl.gz")
    found = []
    for item in given:
        if isinstance(item, str):
            found.append(_source(item, config.split, config.columns))
        else:
            columns = item.columns or config.columns
            found.append(replace(_source(item.path, item.split or config.split, columns), weight=item.weight))
    weighted = [source.weight is not None for source in found]
    if any(weighted) and not all(weighted):
        raise PrefoptError(
            f"data.path: {found[weighted.index(False)].name} has no weight, but others have; give all a weight, or none"
        )
    return found


def sources_digest(config: DataConfig) -> str:
    """SHA-256 (hex) that stands for the content of all sources.

    Raises:
        PrefoptError: as `sources_of`, or a file cannot be read.
    """
    found = [source.digest for source in sources_of(config)]
    return found[0] if len(found) == 1 else digest("sources", found)


def _source(text: str, split: str | None, columns: Mapping[str, str]) -> Source:
    if is_remote(text):
        return Source(text, tuple((str(path), url) for path, url in fetched(text)), split, columns)
    if text.startswith(readers.BUILTIN):
        return Source(text, ((text, text),), split, columns)
    path = Path(text)
    try:
        listed = path if path.is_file() else path / registry.NAME if path.is_dir() else None
        if listed is not None and registry.is_registry(listed):
            return _registered(listed, split, columns)
        names = _in_folder(path) if path.is_dir() and not readers.is_saved(path) else _matching(text, path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise readers.unreadable(path, error) from None
    return Source(text, tuple((name, name) for name in names), split, columns)


def _registered(path: Path, split: str | None, columns: Mapping[str, str]) -> Source:
    name, known = registry.entry(path, split)
    inner = _source(registry.place(path, name, known), known.get("split"), columns)
    return replace(inner, name=f"{path}: {name}", translate=registry.translator(known))


def _in_folder(path: Path) -> Sequence[str]:
    """The data files of a folder, by name; of a stage's folder its table alone."""
    if (path / "manifest.json").exists() and (parts := sorted(path.glob("part-*.parquet"))):
        return [str(part) for part in parts]
    inside = sorted(
        p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    files = [p for p in inside if p.is_file() and readers.is_known(p)]
    if not files:
        raise PrefoptError(
            f"{path}: is a folder without a data file; known kinds: {', '.join(readers.READERS)}"
        )
    return [str(p) for p in files]


def _matching(text: str, path: Path) -> Sequence[str]:
    """The name itself, or the files that its pattern matches."""
    if path.exists() or not any(c in text for c in "*?["):
        return [text]
    found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())
    if not found:
        raise PrefoptError(f"{text}: no file has such a name; check the pattern")
    return found
