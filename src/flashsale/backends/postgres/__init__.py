"""The ledger on PostgreSQL, shared by any number of processes."""

from flashsale.backends.postgres.connect import facts, migrate
from flashsale.backends.postgres.ledger import PostgresLedger

__all__ = ["PostgresLedger", "facts", "migrate"]
