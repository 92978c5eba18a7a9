"""The ledger on PostgreSQL, shared by any number of processes."""

from flashsale.backends.postgres.connect import facts, migrate
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.outbox import PostgresOutbox

__all__ = ["PostgresLedger", "PostgresOutbox", "facts", "migrate"]
