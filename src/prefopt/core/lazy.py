"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class Lazy(Sequence[Item]):
    """A sequence by its length and `at`; a slice of it is a list. Nothing is kept."""

    @abstractmethod
    def at(self, place: int) -> Item:
        """The item at `place`, from 0 to the length less 1."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]

    def __iter__(self) -> Iterator[Item]:
        return (self.at(place) for place in range(len(self)))
