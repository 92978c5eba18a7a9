"""What was used lately: a map that forgets what nobody has set for long, without keeping an order.

Two dictionaries, a new one and an old one. Whatever is set goes into the new one; when that holds half of what there
may be, it becomes the old one, and what was in the old one and was not set since is forgotten at once. So the latest
half is always known, and never more than all. An ordered map would know exactly what was not used for longest, and
pays for it at each use: a linked list through all of memory.
"""

from typing import Generic, TypeVar

V = TypeVar("V")


class Lately(Generic[V]):
    __slots__ = ("half", "new", "old")

    def __init__(self, most: int) -> None:
        self.half = max(1, most // 2)
        self.new: dict[str, V] = {}
        self.old: dict[str, V] = {}

    def __len__(self) -> int:
        return len(self.new.keys() | self.old.keys())

    def get(self, name: str) -> V | None:
        value = self.new.get(name)
        return self.old.get(name) if value is None else value

    def set(self, name: str, value: V) -> None:
        self.new[name] = value
        if len(self.new) >= self.half:
            self.age()

    def age(self) -> None:
        """What was not set since this was last done is forgotten."""
        self.old, self.new = self.new, {}

    def forget(self, name: str) -> None:
        self.new.pop(name, None)
        self.old.pop(name, None)
