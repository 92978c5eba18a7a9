"""The ledger on PostgreSQL, shared by any number of processes."""

from flashsale.backends.postgres.facts import facts
from flashsale.backends.postgres.history import PostgresHistory
from flashsale.backends.postgres.joining import migrate_all
from flashsale.backends.postgres.leases import PostgresLeases
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.limits import PostgresLimits
from flashsale.backends.postgres.risk_log import PostgresRiskLog
from flashsale.backends.postgres.shards import ShardedLedger

__all__ = [
    "PostgresHistory",
    "PostgresLeases",
    "PostgresLedger",
    "PostgresLimits",
    "PostgresRiskLog",
    "ShardedLedger",
    "facts",
    "migrate_all",
]
