"""A dead letter: a message out of the queue that could not be decided, though the ledger decided others meanwhile."""

from hashlib import blake2b

import msgspec


class DeadLetter(msgspec.Struct, frozen=True, array_like=True):
    """The message as it was, where it stood, and why it could not be decided."""

    letter_id: str
    at_ms: int
    topic: str
    partition: int
    offset: int
    message: bytes
    error: str
    tries: int
    reservation_ids: tuple[str, ...] = ()
    """What was REJECTED with it; none where the message could not be read."""
    redriven_as: tuple[str, ...] = ()
    """The reservations that another try has made."""
    redriven_at_ms: int | None = None


def letter_id_of(topic: str, partition: int, offset: int, message: bytes) -> str:
    """The same for the same message in the same place, so that one which comes twice is written down once."""
    place = f"{topic}\0{partition}\0{offset}\0".encode()
    return "dlq_" + blake2b(place + message, digest_size=16).hexdigest()
