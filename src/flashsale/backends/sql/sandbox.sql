-- The sandbox provider's books. `payment` is what each transaction is now, `entry` is every movement that
-- made it so, `answer` is what each idempotency key was told. The three change in one transaction.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS payment (
    seq            INTEGER PRIMARY KEY,
    transaction_id TEXT    NOT NULL UNIQUE,
    status         INTEGER NOT NULL CHECK (status BETWEEN 0 AND 4),  -- the rank of core.payment.PaymentStatus
    amount_minor   INTEGER NOT NULL CHECK (amount_minor >= 0),
    currency       TEXT    NOT NULL,
    refunded_minor INTEGER NOT NULL CHECK (refunded_minor BETWEEN 0 AND amount_minor),
    reason         TEXT    NOT NULL,
    CHECK (refunded_minor = 0 OR status = 4)  -- only captured money can go back
) STRICT;

CREATE TABLE IF NOT EXISTS entry (
    seq            INTEGER PRIMARY KEY,
    time_ms        INTEGER NOT NULL,
    transaction_id TEXT    NOT NULL REFERENCES payment (transaction_id),
    kind           TEXT    NOT NULL CHECK (kind IN ('authorise', 'decline', 'capture', 'void', 'refund')),
    amount_minor   INTEGER NOT NULL CHECK (amount_minor >= 0),
    currency       TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    UNIQUE (key, kind)  -- whatever the code does, no key moves money twice
) STRICT;

CREATE TRIGGER IF NOT EXISTS entry_is_never_changed BEFORE UPDATE ON entry
BEGIN SELECT RAISE (ABORT, 'the books are append-only'); END;

CREATE TRIGGER IF NOT EXISTS entry_is_never_removed BEFORE DELETE ON entry
BEGIN SELECT RAISE (ABORT, 'the books are append-only'); END;

CREATE TABLE IF NOT EXISTS answer (
    key     TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    report  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

COMMIT;
