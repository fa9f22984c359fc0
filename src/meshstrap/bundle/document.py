"""Values in a parsed file, each with its place, so that every complaint can name it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.bundle.errors import BundleError, quoted


@dataclass(frozen=True)
class Node:
    """A value in a file, with its place.

    Args:
        file: The file, for people.
        key: Where in the file the value stands, for example `images[3].layers`; empty for the whole.
        value: The value.
        error: What is raised where a value is missing or of another kind.
    """

    file: str
    key: str
    value: Any
    error: type[BundleError] = BundleError

    def text(self, key: str) -> str:
        """Give a text that is not empty."""
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "text", value)
        return value

    def integer(self, key: str) -> int:
        """Give a whole number from 0 up, of 63 bits, as sizes are."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self._wrong(key, "a whole number", value)
        return value

    def checked(self, key: str, is_right: Callable[[str], bool], expected: str) -> str:
        """Give a text of a certain form; `expected` says which."""
        value = self.text(key)
        if not is_right(value):
            raise self._wrong(key, expected, value)
        return value

    def items(self, key: str) -> list[Node]:
        """Give the parts of a list."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return [Node(self.file, f"{self._name(key)}[{i}]", item, self.error) for i, item in enumerate(value)]

    def texts(self, key: str) -> list[str]:
        """Give the parts of a list of texts."""
        parts = self.items(key)
        for part in parts:
            if not isinstance(part.value, str) or not part.value:
                raise self.error(f"{self.file}: {part.key}: expected text, found {quoted(part.value)}")
        return [part.value for part in parts]

    def part(self, key: str) -> Node:
        """Give a value with its place."""
        return Node(self.file, self._name(key), self._get(key), self.error)

    def has(self, key: str) -> bool:
        """Tell whether there is a value, and not null."""
        return isinstance(self.value, Mapping) and self.value.get(key) is not None

    def optional(self, key: str) -> str:
        """Give a text; empty where there is none."""
        return self.text(key) if self.has(key) and self.value[key] != "" else ""

    def _get(self, key: str) -> Any:
        if not isinstance(self.value, Mapping):
            raise self.error(f"{self.file}: {self.key or 'the file'}: expected keys and values")
        if key not in self.value:
            raise self.error(f"{self.file}: {self._name(key)}: is missing")
        return self.value[key]

    def _name(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def _wrong(self, key: str, expected: str, value: Any) -> BundleError:
        return self.error(f"{self.file}: {self._name(key)}: expected {expected}, found {quoted(value)}")


def parse_json(content: bytes, file: str) -> Node:
    """Parse a JSON file.

    Args:
        content: Its bytes.
        file: Its name, for people.

    Returns:
        Its value.

    Raises:
        BundleError: It is none.
    """
    try:
        return Node(file, "", json.loads(content))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: not JSON: {error}") from None
