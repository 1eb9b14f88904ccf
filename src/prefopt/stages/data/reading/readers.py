"""Files -> raw rows: JSON lines, JSON, Parquet, CSV (plain or gzip), packaged files and hub data sets.

    read_rows("pairs.jsonl.gz")                     a file; .jsonl .ndjson .json .csv .tsv (also .gz) and .parquet
    read_rows("builtin:quickstart/train.jsonl")     a file that comes with prefopt
    read_rows("owner/name", split="train")          a data set of the Hugging Face hub; "owner/name:subset" picks a subset

Every row comes with the words that say where it stood, for messages. Files that cannot be read as they are (broken
JSON, a cut gzip, bytes that are not UTF-8, half a surrogate pair, NaN, a key twice in one object, nesting deeper than
64 levels) are errors that name file, row and remedy: guessing would change the data without a word. Rows count from
1; in .jsonl and .csv they are line numbers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from prefopt.core.errors import PrefoptError, nearest
from prefopt.stages.data.reading.files import (
    BATCH,
    Rows,
    batch_rows,
    csv_file,
    json_file,
    json_lines,
    one_line,
    parquet_file,
    unreadable,
)
from prefopt.tables.records import digest, file_digest

if TYPE_CHECKING:
    from datasets import Dataset

BUILTIN = "builtin:"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def read_rows(source: str, split: str | None = None, limit: int | None = None) -> Rows:
    """Rows of a file or data set, one after the other, each as `(row, where)`; at most `limit` of them.

    `split` names the split of a hub data set (default train), or the key of a JSON object `{"train": [...]}`.

    Raises:
        PrefoptError: the source is missing, unreadable, or broken at some row; raised when that row is reached.
    """
    place = locate(source)
    if isinstance(place, str):
        rows = _hub_rows(place, split)
    elif place.is_dir():
        rows = batch_rows(_load_saved(place, split).with_format("arrow").iter(batch_size=BATCH), source)
    else:
        rows = _reader(place, split)
    return itertools.islice(rows, limit)


def source_digest(source: str, split: str | None = None) -> str:
    """A name for the content: SHA-256 (hex) of a file's bytes, or of a hub data set's fingerprint.

    Raises:
        PrefoptError: as `read_rows`.
    """
    place = locate(source)
    if isinstance(place, str):
        return digest("hub", place, split, _load_hub(place, split)._fingerprint)
    try:
        if place.is_dir():
            return digest("saved", place.name, _load_saved(place, split)._fingerprint)
        return file_digest(place)
    except OSError as error:
        raise unreadable(place, error) from None


def locate(source: str) -> Path | str:
    """The file that `source` names, or the hub name itself when it is no file.

    Raises:
        PrefoptError: nothing there, a folder, an empty file, or a kind of file that no reader knows.
    """
    path = _builtin(source) if source.startswith(BUILTIN) else Path(source)
    try:
        if is_saved(path):
            return path
        if path.is_dir():
            raise PrefoptError(f"{source}: is a folder; give a data file{_inside(path)}")
        if not path.exists():
            return _missing(source, path)
        if not path.is_file():
            raise PrefoptError(f"{source}: is not an ordinary file; give the path of a data file")
        if path.stat().st_size == 0:
            raise PrefoptError(f"{source}: is empty (0 bytes); give a file with rows")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise unreadable(path, error) from None
    _suffix(path)
    return path


def _builtin(source: str) -> Path:
    package = Path(str(resources.files("prefopt.recipes")))
    name = source.removeprefix(BUILTIN)
    path = package / name
    if path.is_file() and package in path.resolve().parents:
        return path
    known = [str(p.relative_to(package)) for p in package.rglob("*.jsonl")]
    raise PrefoptError(f"{source}: no such file comes with prefopt; {nearest(name, known)}")


def _missing(source: str, path: Path) -> str:
    if _HUB_NAME.fullmatch(source) and not is_known(path):
        return source
    siblings = [p.name for p in path.parent.iterdir() if is_known(p)] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings[:20]) if siblings else "check the path"
    raise PrefoptError(f"{source}: no such file; {hint}")


def _inside(path: Path) -> str:
    names = sorted(p.name for p in path.iterdir() if is_known(p))
    return f" in it, e.g. {names[0]}" if names else ""


def _suffix(path: Path) -> str:
    """The kind of file by its name, without .gz."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix in READERS and not (packed and suffix == ".parquet"):
        return suffix
    raise PrefoptError(f"{path}: unknown kind of file; known: {', '.join(READERS)} (text kinds also as .gz)")


def is_known(path: Path) -> bool:
    """Whether a reader knows this kind of file, by its name."""
    try:
        return bool(_suffix(path))
    except PrefoptError:
        return False


def _reader(path: Path, split: str | None) -> Rows:
    suffix = _suffix(path)
    if split is not None and suffix != ".json":
        raise PrefoptError(
            f"{path}: split {split!r} was asked for, but a {suffix} file has none; leave data.split out"
        )
    return READERS[suffix](path, split)


# ---- the hub


def _hub_rows(name: str, split: str | None) -> Rows:
    tables = _load_hub(name, split).with_format("arrow").iter(batch_size=BATCH)
    yield from batch_rows(tables, name)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the datasets library."""
    return path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(path: Path, split: str | None) -> Dataset:
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:  # every way in which the library fails, as one line for the user
        raise PrefoptError(
            f"{path}: not a readable saved data set ({one_line(error)}); save it again"
        ) from None
    if isinstance(found, Dataset):
        return found
    if (split or "train") not in found:
        raise PrefoptError(
            f"{path}: has no split {split or 'train'!r}; set data.split to one of {', '.join(found)}"
        )
    return found[split or "train"]


def _load_hub(name: str, split: str | None) -> Dataset:
    from datasets import load_dataset

    repository, _, subset = name.partition(":")
    try:
        return load_dataset(repository, subset or None, split=split or "train")
    except Exception as error:  # every failure of hub, network and parsing, as one line for the user
        raise PrefoptError(
            f"{name}: no such file, and not to be had from the hub as split {split or 'train'!r} ({one_line(error)}); "
            "check the name, data.split and the network, or give a file"
        ) from None


READERS: dict[str, Callable[[Path, str | None], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_file,
    ".csv": csv_file,
    ".tsv": csv_file,
    ".parquet": parquet_file,
}
