-- What was told may be forgotten, but for what the counters are proven by (core/retention.py).

-- What the forgotten movements of a product have come to.
CREATE TABLE journal_base (
    sale_id      text COLLATE "C" NOT NULL,
    sku_id       text COLLATE "C" NOT NULL,
    sku_seq      bigint NOT NULL CHECK (sku_seq > 0),
    total        bigint NOT NULL,
    held         bigint NOT NULL,
    sold         bigint NOT NULL,
    reservations bigint NOT NULL CHECK (reservations >= 0),
    PRIMARY KEY (sale_id, sku_id)
);

-- The highest number of a row of journal or outbox that was forgotten: whoever has read less far has missed something,
-- and no number up to it is given again.
CREATE TABLE pruned (seq bigint NOT NULL CHECK (seq >= 0));
INSERT INTO pruned VALUES (0);
