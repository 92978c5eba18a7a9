-- One ledger in several databases. A sale with all its products lives in one of them, its shard; the first of the list
-- also knows which sale is where and which shard may use a transaction of the payment provider.

-- `ledger_id` is the same in all databases of a ledger; a database that stands alone has none. `shards` counts on the
-- first, `last_turn` numbers the changes of the catalogue there. `turn` is the fence of this database: a new sale, or
-- new products of one, that were announced in an earlier turn come too late (postgres/placing.py has the essay).
ALTER TABLE shard
    ADD COLUMN ledger_id text,
    ADD COLUMN shards    integer NOT NULL DEFAULT 1 CHECK (shards BETWEEN 1 AND 64),
    ADD COLUMN turn      bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_turn bigint NOT NULL DEFAULT 0;

-- On the first shard: where each sale is, or is about to be. A row outlives its sale, so that an id stays with the
-- journal it has; no row ever changes its shard. `terms` are those it was announced with, to be shown while its shard
-- has never been seen.
CREATE TABLE sale_shard (
    sale_id  text COLLATE "C" PRIMARY KEY,
    shard_id integer NOT NULL,
    turn     bigint NOT NULL,
    terms    json
);

-- On the first shard: the sales that a product may be in. There may be more rows than that, never fewer.
CREATE TABLE sale_sku (
    sku_id  text COLLATE "C" NOT NULL,
    sale_id text COLLATE "C" NOT NULL REFERENCES sale_shard ON DELETE CASCADE,
    PRIMARY KEY (sku_id, sale_id)
);
CREATE INDEX sale_sku_sale ON sale_sku (sale_id);

-- On the first shard: which shard may use a transaction (without a row, the first itself). On the others: which
-- transactions they have given up, to whom and in which turn of that transaction (core/right.py).
CREATE TABLE transaction_shard (
    provider       text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    shard_id       integer NOT NULL,
    turn           bigint NOT NULL,
    PRIMARY KEY (provider, transaction_id)
);
