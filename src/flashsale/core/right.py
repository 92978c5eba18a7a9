"""Which shard may use a transaction of the payment provider, where one ledger is several databases.

Within one database a unique index keeps a transaction from paying for two orders. Across databases the right to use
a transaction does: at any time one shard has it, and only there can an order be opened with it. The first shard
writes down who that is. A right is handed over only after its holder has given it up, which he does unless a payment
of his claims the transaction:

    asker ──► first shard     hold      "the right is yours", or "shard 2 has it, since turn 7"
          ──► shard 2         give_up   refused while a payment claims it; else noted there: given up in turn 7
          ──► first shard     hold      "given up in turn 7": if it still is turn 7, it is yours, in turn 8
          ──► own shard       open_order with the right of turn 8

Each step is a transaction of its own, and any process may stop between two of them, for as long as it likes. What
makes that safe is the turn: whoever was given a right in turn 7 and comes to use it after it was given up in turn 7
finds the note in his own database, in the transaction that would have opened the order. What is left behind blocks
nobody: a right that is not used is given up when somebody asks for it, and a shard that has given up a right which
then nobody took asks for it anew.

A transaction that nobody has asked the right of belongs to the first shard; a ledger that is one database needs none
of this.
"""

from flashsale.core.books import Books
from flashsale.core.checkout import claims
from flashsale.core.payment import Right, TransactionKey

FIRST = 0
NOT_ASKED = Right(-1, 0, here=False)
"""What stands in for a right that has not been asked for yet."""


def hold(books: Books, key: TransactionKey, asker: int, given_up_turn: int | None) -> Right:
    """On the first shard: who has the right now. The asker, if it is free, or was given up in its present turn."""
    held = books.rights.get(key, Right(FIRST, 0, here=True))
    if held.shard_id == asker:
        free = held.turn == given_up_turn
    elif held.shard_id == FIRST:
        free = not claimed(books, key)
    else:
        free = held.turn == given_up_turn
    if not free:
        return held
    # Below this line nothing can fail.
    held = Right(asker, held.turn + 1, here=asker == FIRST)
    books.rights[key] = books.changed_rights[key] = held
    return held


def give_up(books: Books, key: TransactionKey, to: int, turn: int) -> bool:
    """On the shard that had the right in `turn`: whether it is free. From then on it cannot be used in that turn."""
    if claimed(books, key):
        return False
    # Below this line nothing can fail.
    if key not in books.rights or books.rights[key].turn < turn:
        books.rights[key] = books.changed_rights[key] = Right(to, turn, here=False)
    return True


def take(books: Books, key: TransactionKey, turn: int) -> bool:
    """On the shard that was given the right in `turn`: whether it still has it."""
    noted = books.rights.get(key)
    if noted is None or noted.here:
        return True
    if noted.turn >= turn:
        return False
    # Below this line nothing can fail.
    del books.rights[key]
    books.changed_rights[key] = None
    return True


def claimed(books: Books, key: TransactionKey) -> bool:
    return any((each.provider, each.transaction_id) == key and claims(each) for each in books.payments.values())
