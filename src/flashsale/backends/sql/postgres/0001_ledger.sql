-- The ledger on PostgreSQL. Times are milliseconds since 1970 in UTC; money is integer minor units. Text is compared
-- by bytes: ids begin with their time, so that rows are appended to an index instead of scattered over it.

CREATE TABLE shard (
    shard_id      integer PRIMARY KEY CHECK (shard_id >= 0),
    created_at_ms bigint NOT NULL,
    seq_base      bigint NOT NULL
);
INSERT INTO shard VALUES (0, floor(extract(epoch FROM clock_timestamp()) * 1000), 0);

-- What is numbered in the order of commits has as its number its transaction's id and its place in it, above the
-- shard's base. The base is not 0 where a ledger was restored into a database whose transaction ids are lower than
-- those it was written with (seq.sql).
CREATE FUNCTION flashsale_seq() RETURNS bigint LANGUAGE sql AS
    'SELECT seq_base + (pg_current_xact_id()::text::bigint << 20) FROM shard';

-- Below this number nothing will be written any more: every transaction that could is over.
CREATE FUNCTION flashsale_horizon() RETURNS bigint LANGUAGE sql AS
    'SELECT seq_base + (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20) FROM shard';

-- The terms of a sale are read and written whole: one document (core/sale.py).
CREATE TABLE sale (
    sale_id       text COLLATE "C" PRIMARY KEY,
    terms         json NOT NULL,
    version       integer NOT NULL CHECK (version > 0),
    created_at_ms bigint NOT NULL
);

-- The invariant of the whole system is the last line of this table. Its few rows are written by every batch: room
-- is left in their pages, so that a new version of a row lies beside the old one and no index is touched.
CREATE TABLE stock (
    sale_id text COLLATE "C" NOT NULL REFERENCES sale,
    sku_id  text COLLATE "C" NOT NULL,
    total   bigint NOT NULL,
    held    bigint NOT NULL,
    sold    bigint NOT NULL,
    sku_seq bigint NOT NULL,
    PRIMARY KEY (sale_id, sku_id),
    CHECK (held >= 0 AND sold >= 0 AND held + sold <= total)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE reservation (
    seq               bigint NOT NULL,
    reservation_id    text COLLATE "C" PRIMARY KEY,
    user_id           text COLLATE "C" NOT NULL,
    sale_id           text COLLATE "C" NOT NULL,
    sku_id            text COLLATE "C" NOT NULL,
    quantity          bigint NOT NULL CHECK (quantity > 0),
    status            text COLLATE "C" NOT NULL CHECK (status IN
        ('PENDING', 'RESERVED', 'REJECTED', 'CANCELLED', 'CONFIRMED', 'EXPIRED', 'RETURNED')),
    unit_price_minor  bigint NOT NULL,
    currency          text COLLATE "C" NOT NULL,
    created_at_ms     bigint NOT NULL,
    expires_at_ms     bigint NOT NULL,
    request_kind      text COLLATE "C" NOT NULL,
    request_key       text COLLATE "C",
    order_id          text COLLATE "C",
    returned_quantity bigint NOT NULL DEFAULT 0 CHECK (returned_quantity BETWEEN 0 AND quantity),
    refusal           text,
    redrive_of        text COLLATE "C"
);
-- What counts against a user's purchase limit, and what is held.
CREATE INDEX reservation_claiming ON reservation (user_id, sale_id) INCLUDE (sku_id, quantity)
    WHERE status IN ('RESERVED', 'CONFIRMED');
CREATE INDEX reservation_held ON reservation (expires_at_ms) WHERE status = 'RESERVED';

-- A request that was granted. The key is what keeps two processes from granting it twice: they may work on two
-- different products at once, so no lock on stock would.
CREATE TABLE request (
    user_id         text COLLATE "C" NOT NULL,
    sale_id         text COLLATE "C" NOT NULL,
    request_key     text COLLATE "C" NOT NULL,
    reservation_ids text[] NOT NULL,
    PRIMARY KEY (user_id, sale_id, request_key)
);

-- Every movement of stock, and with it every transition of a reservation. It also is their outbox: sku_seq has no
-- gaps, and seq can be read behind a cursor (postgres/ledger.py has the essay).
CREATE TABLE journal (
    seq            bigint PRIMARY KEY,
    sale_id        text COLLATE "C" NOT NULL,
    sku_id         text COLLATE "C" NOT NULL,
    sku_seq        bigint NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    quantity       bigint NOT NULL,
    total_after    bigint NOT NULL,
    held_after     bigint NOT NULL,
    sold_after     bigint NOT NULL,
    reservation_id text COLLATE "C",
    actor          text NOT NULL,
    reason         text NOT NULL,
    at_ms          bigint NOT NULL
);
CREATE UNIQUE INDEX journal_sku_seq ON journal (sale_id, sku_id, sku_seq);

-- Events that move no unit (those of orders), to be published at least once.
CREATE TABLE outbox (
    seq      bigint PRIMARY KEY,
    topic    text NOT NULL,
    type     text NOT NULL,
    subject  text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    at_ms    bigint NOT NULL,
    body     json NOT NULL,
    UNIQUE (subject, sequence)
);

CREATE TABLE orders (
    order_id         text COLLATE "C" PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    sale_id          text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL CHECK (status IN ('PENDING_PAYMENT', 'PAID', 'CANCELLED', 'EXPIRED',
        'PROCESSING', 'SHIPPED', 'DELIVERED', 'REFUNDING', 'REFUNDED')),
    currency         text COLLATE "C" NOT NULL,
    lines            jsonb NOT NULL,
    payment_method   text NOT NULL,
    shipping_address text NOT NULL,
    created_at_ms    bigint NOT NULL,
    sequence         bigint NOT NULL,
    reason           text NOT NULL,
    transaction_id   text COLLATE "C",
    total_minor      bigint NOT NULL CHECK (total_minor >= 0)
);
CREATE INDEX orders_user ON orders (user_id, order_id);
CREATE INDEX orders_sale ON orders (sale_id, order_id);

-- A transaction belongs to one order until it has FAILED and nothing of it is due.
CREATE TABLE payment (
    payment_id     text COLLATE "C" PRIMARY KEY,
    order_id       text COLLATE "C" NOT NULL REFERENCES orders,
    provider       text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    amount_minor   bigint NOT NULL CHECK (amount_minor >= 0),
    currency       text COLLATE "C" NOT NULL,
    status         smallint NOT NULL CHECK (status BETWEEN 0 AND 4),
    due            text COLLATE "C" CHECK (due IN ('authorise', 'capture', 'void')),
    due_at_ms      bigint NOT NULL,
    tries          integer NOT NULL,
    failure        text NOT NULL,
    reason         text NOT NULL,
    created_at_ms  bigint NOT NULL
);
CREATE UNIQUE INDEX payment_claim ON payment (provider, transaction_id) WHERE status <> 1 OR due IS NOT NULL;
CREATE INDEX payment_order ON payment (order_id);
CREATE INDEX payment_due ON payment (due_at_ms) WHERE due IS NOT NULL;

CREATE TABLE refund (
    refund_id     text COLLATE "C" PRIMARY KEY,
    order_id      text COLLATE "C" NOT NULL REFERENCES orders,
    payment_id    text COLLATE "C" NOT NULL REFERENCES payment,
    amount_minor  bigint NOT NULL CHECK (amount_minor > 0),
    reason        text NOT NULL,
    done          boolean NOT NULL,
    due_at_ms     bigint NOT NULL,
    created_at_ms bigint NOT NULL
);
CREATE INDEX refund_order ON refund (order_id);
CREATE INDEX refund_due ON refund (due_at_ms) WHERE NOT done;

-- How often each refusal was said, per sale.
CREATE TABLE refusal_count (
    sale_id text COLLATE "C" NOT NULL,
    code    text COLLATE "C" NOT NULL,
    times   bigint NOT NULL,
    PRIMARY KEY (sale_id, code)
);

CREATE TABLE audit (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms   bigint NOT NULL,
    actor   text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL,
    details json NOT NULL
);

-- The processes that write, and the number of the last batch of each: it is committed with the batch, so that after
-- a commit whose answer was lost the writer can see what became of it.
CREATE TABLE writer (
    writer_id  text COLLATE "C" PRIMARY KEY,
    batch      bigint NOT NULL,
    seen_at_ms bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
