-- The ledger on SQLite. Times are milliseconds since 1970 in UTC; money is integer minor units.
-- What arrives in time order is stored in time order (ids begin with their time), so that a growing ledger is
-- appended to. Every structure that is touched at random places costs a page for each row of a batch. Users come
-- at random: their entries are gathered first (by_user.py).

CREATE TABLE shard (
    shard_id    INTEGER NOT NULL PRIMARY KEY CHECK (shard_id >= 0),
    created_at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO shard VALUES (0, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));

-- The terms of a sale are read and written whole: one document (core/sale.py).
CREATE TABLE sale (
    sale_id       TEXT NOT NULL PRIMARY KEY,
    terms         TEXT NOT NULL CHECK (json_valid(terms)),
    version       INTEGER NOT NULL CHECK (version > 0),
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The invariant of the whole system is the last line of this table.
CREATE TABLE stock (
    sale_id TEXT NOT NULL REFERENCES sale,
    sku_id  TEXT NOT NULL,
    total   INTEGER NOT NULL,
    held    INTEGER NOT NULL,
    sold    INTEGER NOT NULL,
    sku_seq INTEGER NOT NULL,
    PRIMARY KEY (sale_id, sku_id),
    CHECK (held >= 0 AND sold >= 0 AND held + sold <= total)
) STRICT, WITHOUT ROWID;

-- A reservation also is the record of the request that made it: its key, its kind, and (REJECTED) its refusal.
CREATE TABLE reservation (
    seq               INTEGER NOT NULL PRIMARY KEY,
    reservation_id    TEXT NOT NULL UNIQUE,
    user_id           TEXT NOT NULL,
    sale_id           TEXT NOT NULL,
    sku_id            TEXT NOT NULL,
    quantity          INTEGER NOT NULL CHECK (quantity > 0),
    status            TEXT NOT NULL CHECK (status IN
        ('PENDING', 'RESERVED', 'REJECTED', 'CANCELLED', 'CONFIRMED', 'EXPIRED', 'RETURNED')),
    unit_price_minor  INTEGER NOT NULL,
    currency          TEXT NOT NULL,
    created_at_ms     INTEGER NOT NULL,
    expires_at_ms     INTEGER NOT NULL,
    request_kind      TEXT NOT NULL,
    request_key       TEXT,
    order_id          TEXT,
    returned_quantity INTEGER NOT NULL DEFAULT 0 CHECK (returned_quantity BETWEEN 0 AND quantity),
    refusal           TEXT,
    redrive_of        TEXT
) STRICT;
CREATE INDEX reservation_held ON reservation (expires_at_ms) WHERE status = 'RESERVED';

-- Where a user's reservations and his earlier requests are found (by_user.py). `seq` 0 is a signpost.
CREATE TABLE by_user (
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (level, place, seq)
) STRICT, WITHOUT ROWID;

-- Every movement of stock, and with it every transition of a reservation. It also is their outbox: sku_seq has
-- no gaps, and seq is the order of commits (one writer).
CREATE TABLE journal (
    seq            INTEGER NOT NULL PRIMARY KEY,
    sale_id        TEXT NOT NULL,
    sku_id         TEXT NOT NULL,
    sku_seq        INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    quantity       INTEGER NOT NULL,
    total_after    INTEGER NOT NULL,
    held_after     INTEGER NOT NULL,
    sold_after     INTEGER NOT NULL,
    reservation_id TEXT,
    actor          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    at_ms          INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX journal_sku_seq ON journal (sale_id, sku_id, sku_seq);

-- Events that move no unit (those of orders), to be published at least once.
CREATE TABLE outbox (
    seq      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    topic    TEXT NOT NULL,
    type     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    body     TEXT NOT NULL CHECK (json_valid(body))
) STRICT;

CREATE TABLE orders (
    order_id         TEXT NOT NULL PRIMARY KEY,
    user_id          TEXT NOT NULL,
    sale_id          TEXT NOT NULL,
    status           TEXT NOT NULL CHECK (status IN ('PENDING_PAYMENT', 'PAID', 'CANCELLED', 'EXPIRED',
        'PROCESSING', 'SHIPPED', 'DELIVERED', 'REFUNDING', 'REFUNDED')),
    currency         TEXT NOT NULL,
    lines            TEXT NOT NULL CHECK (json_valid(lines)),
    payment_method   TEXT NOT NULL,
    shipping_address TEXT NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    sequence         INTEGER NOT NULL,
    reason           TEXT NOT NULL,
    transaction_id   TEXT,
    total_minor      INTEGER NOT NULL CHECK (total_minor >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_user ON orders (user_id, order_id);
CREATE INDEX orders_sale ON orders (sale_id, order_id);

-- A transaction belongs to one order until it has FAILED and nothing of it is due.
CREATE TABLE payment (
    payment_id     TEXT NOT NULL PRIMARY KEY,
    order_id       TEXT NOT NULL REFERENCES orders,
    provider       TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    amount_minor   INTEGER NOT NULL CHECK (amount_minor >= 0),
    currency       TEXT NOT NULL,
    status         INTEGER NOT NULL CHECK (status BETWEEN 0 AND 4),
    due            TEXT CHECK (due IN ('authorise', 'capture', 'void')),
    due_at_ms      INTEGER NOT NULL,
    tries          INTEGER NOT NULL,
    failure        TEXT NOT NULL,
    reason         TEXT NOT NULL,
    created_at_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX payment_claim ON payment (provider, transaction_id) WHERE status <> 1 OR due IS NOT NULL;
CREATE INDEX payment_order ON payment (order_id);
CREATE INDEX payment_due ON payment (due_at_ms) WHERE due IS NOT NULL;

CREATE TABLE refund (
    refund_id     TEXT NOT NULL PRIMARY KEY,
    order_id      TEXT NOT NULL REFERENCES orders,
    payment_id    TEXT NOT NULL REFERENCES payment,
    amount_minor  INTEGER NOT NULL CHECK (amount_minor > 0),
    reason        TEXT NOT NULL,
    done          INTEGER NOT NULL CHECK (done IN (0, 1)),
    due_at_ms     INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refund_order ON refund (order_id);
CREATE INDEX refund_due ON refund (due_at_ms) WHERE done = 0;

-- How often each refusal was said, per sale.
CREATE TABLE refusal_count (
    sale_id TEXT NOT NULL,
    code    TEXT NOT NULL,
    times   INTEGER NOT NULL,
    PRIMARY KEY (sale_id, code)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq     INTEGER NOT NULL PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    details TEXT NOT NULL CHECK (json_valid(details))
) STRICT;
