-- What was told may be forgotten, but for what the counters are proven by (core/retention.py).

-- What the forgotten movements of a product have come to.
CREATE TABLE journal_base (
    sale_id      TEXT NOT NULL,
    sku_id       TEXT NOT NULL,
    sku_seq      INTEGER NOT NULL CHECK (sku_seq > 0),
    total        INTEGER NOT NULL,
    held         INTEGER NOT NULL,
    sold         INTEGER NOT NULL,
    reservations INTEGER NOT NULL CHECK (reservations >= 0),
    PRIMARY KEY (sale_id, sku_id)
) STRICT, WITHOUT ROWID;

-- The highest number of a row of journal or outbox that was forgotten: whoever has read less far has missed something,
-- and no number up to it is given again.
CREATE TABLE pruned (seq INTEGER NOT NULL CHECK (seq >= 0)) STRICT;
INSERT INTO pruned VALUES (0);
