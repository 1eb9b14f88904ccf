"""Forms of data files that a plug-in adds: `@register_format`. They are tried before our own (`formats.FORMATS`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, digests, origin_of, told
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.formats import FORMATS, KINDS, Format, Sample, has
from prefopt.tables.records import Row

Convert = TypeVar("Convert", bound=Callable[[Row], Row])
KIND = "format"
_ADDED: dict[str, Format] = {}  # of plug-ins, tried before ours
_READS: dict[str, tuple[str, ...]] = {}


def register_format(
    name: str, kind: str, fits: Callable[[Sample], bool] | Sequence[str], about: str = ""
) -> Callable[[Convert], Convert]:
    """Decorator: `convert(row)` turns a raw row of a form of your own into a row of `kind` (see the top of this file).

    fits: the columns that tell the form, or a function of `Sample`. It goes before the library's own forms. A row that
    cannot be converted raises `ValueError` with the reason, and is dropped and counted.

    Raises:
        PrefoptError: the name is taken, or there is no such kind.
    """

    def register(convert: Convert) -> Convert:
        origin = origin_of(convert)
        if kind not in KINDS:
            raise PrefoptError(f"{origin}: format {name!r}: kind {kind!r}, {nearest(kind, KINDS)}")
        if name in FORMATS:
            raise PrefoptError(f"{origin}: format {name!r} is built in; choose another name")
        recognise = fits if callable(fits) else has(*fits)
        shown = about or (convert.__doc__ or "").partition("\n")[0]
        form = Format(name, kind, _guarded(name, recognise), _converting(name, convert), shown)
        add_part(KIND, name, convert, form, _ADDED)
        _READS[name] = () if callable(fits) else tuple(fits)
        return convert

    return register


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(given: Any) -> Any:
        with told(KIND, name):
            return function(given)

    return call


def _converting(name: str, convert: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def call(row: Row) -> Row:
        refused = None
        with told(KIND, name):
            try:
                found = convert(row)
            except ValueError as error:  # what the author says of a bad row
                found, refused = {}, str(error) or type(error).__name__
            if not isinstance(found, dict):
                raise TypeError(f"gave {found!r}; return a dict with the columns of its kind")
        if refused is not None:
            raise BadRow(f"refused by format {name}", refused)
        return found

    return call


def format_digests() -> list[str]:
    """Digests of the plug-ins that add formats: each has a say in what a file is taken for. For the key of a stage."""
    return digests(KIND, _ADDED)


def all_formats() -> tuple[Format, ...]:
    """Every format in the order in which they are tried."""
    return (*_ADDED.values(), *FORMATS.values())


def fitting(sample: Sample, kind: str = "auto") -> list[Format]:
    """The forms that a file may be, the one that is taken first."""
    return [form for form in all_formats() if kind in ("auto", form.kind) and form.fits(sample)]


def names_read() -> frozenset[str]:
    """Columns that the forms of plug-ins read."""
    return frozenset(name for names in _READS.values() for name in names)
