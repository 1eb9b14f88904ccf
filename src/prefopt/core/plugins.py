"""Plug-ins: files and packages of the user's that add losses, judges, engines, verifiers, formats and rules.

The registries stand beside what they name; here is what they share: where an added part comes from, its digest for the
keys of stages, errors told with file and line, and the loading of plug-ins by path, by module and by entry point.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from prefopt.core.errors import PrefoptError, nearest

Part = TypeVar("Part")
GROUP = "prefopt.plugins"  # entry points of installed packages
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class Origin:
    """Where an added part stands. digest: SHA-256 (hex) of the source that it depends on."""

    file: str
    line: int
    owner: str  # module and qualified name, so that a cell or file run again replaces its own parts only
    digest: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_ORIGINS: dict[tuple[str, str], Origin] = {}  # (kind, name) of every added part
_FILES: dict[Path, str] = {}  # files that are loaded -> digest of what was loaded
_INSTALLED = {"loaded": False}


def add_part(kind: str, name: str, source: Any, part: Part, table: MutableMapping[str, Part]) -> None:
    """Put `part`, written as `source` (a function or class), into a registry under `name`.

    Raises:
        PrefoptError: no good name, or one that is taken by ours or by another plug-in.
    """
    origin = origin_of(source)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PrefoptError(f"{origin}: {kind} {name!r}: give a name of letters, digits, '_', '-' or '.'")
    before = _ORIGINS.get((kind, name))
    if before is None and name in table:
        raise PrefoptError(f"{origin}: {kind} {name!r} is built in; choose another name")
    if before is not None and (before.file, before.owner) != (origin.file, origin.owner):
        raise PrefoptError(f"{origin}: {kind} {name!r} is taken by {before}; choose another name")
    table[name] = part
    _ORIGINS[kind, name] = origin


def remove_part(kind: str, name: str, table: MutableMapping[str, Any]) -> None:
    """Take an added part out again (tests, notebooks); parts of the library stay."""
    if _ORIGINS.pop((kind, name), None) is not None:
        table.pop(name, None)


def digests(kind: str, names: Iterable[str]) -> list[str]:
    """Digests of the sources of those of the named parts that were added; for the key of a stage that uses them."""
    found = (_ORIGINS.get((kind, name)) for name in sorted(set(names)))
    return [origin.digest for origin in found if origin is not None]


def added(kind: str) -> list[str]:
    """Names of the parts of a kind that plug-ins have added."""
    return sorted(name for own, name in _ORIGINS if own == kind)


# ---- where a part comes from


def origin_of(source: Any) -> Origin:
    """File, line and digest of a function or class, also of one written in a notebook or a console."""
    thing = inspect.unwrap(source)
    owner = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    code = getattr(thing, "__code__", None)
    try:
        file = inspect.getsourcefile(thing) or inspect.getfile(thing)
    except TypeError:
        file = "<unknown>"
    try:
        text, line = inspect.getsourcelines(thing)
    except (OSError, TypeError):
        text, line = [], getattr(code, "co_firstlineno", 0)
    path = Path(file)
    if path.is_file():
        found = source_digest(path)
    else:
        found = _sha("".join(text) or (_code_text(code) if code is not None else owner))
    return Origin(_shown(path), line, owner, found)


def source_digest(path: Path) -> str:
    """SHA-256 (hex) of a plug-in's file, or of all Python files of the package that it is part of."""
    home = path.parent
    if not (home / "__init__.py").is_file():
        return _sha(path.read_bytes())
    while (home.parent / "__init__.py").is_file():
        home = home.parent
    files = sorted(home.rglob("*.py"))
    return _sha("\0".join(f"{file.relative_to(home)}\0{_sha(file.read_bytes())}" for file in files))


def _sha(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _code_text(code: CodeType) -> str:
    """What a function does, where its text is nowhere: its code and constants, those of inner functions too."""
    inner = [_code_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return "\n".join([code.co_code.hex(), *code.co_names, *inner])


def _shown(path: Path) -> str:
    """The path from the working folder where it is below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


# ---- errors


@contextmanager
def told(kind: str, name: str) -> Iterator[None]:
    """What an added part raises within the block becomes one line with its file and line; our own errors pass.

    Raises:
        PrefoptError: instead of what a plug-in raised.
    """
    origin = _ORIGINS.get((kind, name))
    if origin is None:
        yield
        return
    try:
        yield
    except PrefoptError:
        raise
    except Exception as error:
        raise failure(f"{kind} {name!r}", error, origin) from error


def failure(what: str, error: Exception, origin: Origin) -> PrefoptError:
    """One line of what went wrong in a plug-in: the innermost place in its file, else where the part begins."""
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if _shown(Path(place.filename)) == origin.file]
    where = f"{origin.file}:{own[-1].lineno}" if own else str(origin)
    return PrefoptError(f"{where}: {what}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# ---- loading


def names_of(given: Any) -> list[str]:
    """The setting `plugins`: a name, or a list of names.

    Raises:
        PrefoptError: anything else.
    """
    names = [given] if isinstance(given, str) else given
    if names is None:
        return []
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise PrefoptError(
            f"plugins: {given!r}; give modules and files, e.g. [my_package.losses, ./my_checks.py]"
        )
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def load_plugins(names: Iterable[str], home: Path | None = None) -> None:
    """Load plug-ins of installed packages (entry points), then the named modules and files, each once.

    A path is looked for in the working folder, then in `home` (the folder of the recipe).

    Raises:
        PrefoptError: a plug-in that is not there or fails; names file and line.
    """
    load_installed()
    for name in names:
        if name.endswith(".py") or "/" in name or "\\" in name:
            _load_file(_find_file(name, home))
        else:
            _load_module(name)


def load_installed() -> None:
    """Load the plug-ins that installed packages declare in the entry-point group `prefopt.plugins`, once.

    Raises:
        PrefoptError: one of them fails; names it and its package.
    """
    if _INSTALLED["loaded"]:
        return
    _INSTALLED["loaded"] = True
    from importlib import metadata  # late: it is a third of the time that --help takes

    for point in metadata.entry_points(group=GROUP):
        try:
            point.load()
        except PrefoptError:
            _INSTALLED["loaded"] = False
            raise
        except Exception as error:
            _INSTALLED["loaded"] = False
            package = point.dist.name if point.dist else point.value
            raise PrefoptError(
                f"plug-in {point.name!r} of the installed package {package!r}: {_place(error)}{_first_line(error)}"
            ) from error


def _find_file(name: str, home: Path | None) -> Path:
    places = [Path(name).expanduser(), *([home / name] if home else [])]
    for path in places:
        if path.is_file():
            return path.resolve()
    raise PrefoptError(f"plugins: {name}: no such file; give the path of a Python file, or a module's name")


def _load_file(path: Path) -> None:
    found = source_digest(path)
    if _FILES.get(path) == found:
        return
    name = f"prefopt_plugin_{path.stem}_{_sha(str(path))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PrefoptError(f"plugins: {path}: cannot be imported; give a Python file (.py)")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except PrefoptError:
        sys.modules.pop(name, None)
        raise
    except Exception as error:
        sys.modules.pop(name, None)
        raise PrefoptError(f"plug-in {_place(error, path)}{_first_line(error)}") from error
    _FILES[path] = found


def _load_module(name: str) -> None:
    top = name.split(".", maxsplit=1)[0]
    try:
        found = importlib.util.find_spec(top) is not None
        if not found:  # a package in the working folder, which a console script does not look into
            sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(name)
        finally:
            if not found:
                sys.path.remove(str(Path.cwd()))
    except PrefoptError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise PrefoptError(
                f"plugins: no module {name!r}; install its package, or give the path of a file (./{top}.py)"
            ) from None
        raise PrefoptError(f"plug-in {name}: {_place(error)}{_first_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise PrefoptError(f"plug-in {name}: {_place(error)}{_first_line(error)}") from error


def _place(error: BaseException, path: Path | None = None) -> str:
    """`FILE:LINE: ` of the innermost place outside of the standard import machinery (within `path`, where given)."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename))}:{error.lineno}: "
    places = [p for p in traceback.extract_tb(error.__traceback__) if not p.filename.startswith("<frozen")]
    own = [p for p in places if path is not None and Path(p.filename).resolve() == path]
    outside = [p for p in places if Path(p.filename).resolve() != Path(__file__).resolve()]
    last = next(iter((own or outside)[::-1]), None)
    if last is None:
        return f"{_shown(path)}: " if path else ""
    return f"{_shown(Path(last.filename))}:{last.lineno}: "


# ---- settings of parts


def keywords_of(part: Any) -> dict[str, Any]:
    """Keyword-only parameters of a function (of a class: of its `__init__`) with their defaults."""
    parameters = inspect.signature(part).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_options(what: str, options: dict[str, Any], known: dict[str, Any]) -> None:
    """Hold the `options` of an added part against its keyword-only parameters.

    Raises:
        PrefoptError: an option that it does not have (the nearest is named), or one without default that is missing.
    """
    for name in options:
        if name not in known:
            hint = nearest(name, known) if known else "it has none"
            raise PrefoptError(f"{what} has no option {name!r}; {hint}")
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in options:
            raise PrefoptError(f"{what} needs the option {name!r}; set it under options")
