-- What several databases of one ledger ask of each other. Tables: 0004_shards.sql.

-- What a database says of its place in the list.

-- name: place
SELECT shard_id, ledger_id, shards, EXISTS (SELECT 1 FROM journal) OR EXISTS (SELECT 1 FROM sale) FROM shard;

-- name: name_ledger
UPDATE shard SET ledger_id = $1 WHERE ledger_id IS NULL;

-- name: join_ledger
UPDATE shard SET shard_id = $1, ledger_id = $2, turn = 1 WHERE ledger_id IS NULL;

-- From here on a process that knows the first database only cannot make sales any more.

-- name: count_shards
UPDATE shard SET shards = $1, turn = greatest(turn, 1) WHERE shards < $1;

-- What the first database held while it was alone, and ids whose sales were deleted.

-- name: own_sales
INSERT INTO sale_shard (sale_id, shard_id, turn, terms)
SELECT sale_id, 0, 0, sale.terms
FROM (SELECT DISTINCT sale_id FROM journal UNION SELECT sale_id FROM sale) AS own LEFT JOIN sale USING (sale_id)
ON CONFLICT DO NOTHING;

-- name: own_skus
INSERT INTO sale_sku (sku_id, sale_id)
SELECT DISTINCT product ->> 'skuId', sale_id FROM sale CROSS JOIN json_array_elements(terms -> 'products') AS product
ON CONFLICT DO NOTHING;

-- What a shard holds, for a first database that was restored to an earlier moment and does not know of it.

-- name: sales_here
SELECT sale_id, terms::text FROM sale;

-- name: know_sales
INSERT INTO sale_shard (sale_id, shard_id, turn, terms) SELECT sale_id, $1, 0, terms
FROM unnest($2::text[], $3::json[]) AS s(sale_id, terms) ORDER BY 1
ON CONFLICT DO NOTHING;

-- name: know_skus
INSERT INTO sale_sku (sku_id, sale_id)
SELECT DISTINCT product ->> 'skuId', sale_id
FROM unnest($1::text[], $2::json[]) AS s(sale_id, terms) CROSS JOIN json_array_elements(terms -> 'products') AS product
ON CONFLICT DO NOTHING;

-- Turns go on above those that the shards have seen.

-- name: know_turn
UPDATE shard SET last_turn = greatest(last_turn, $1);

-- The catalogue, on the first shard.

-- name: next_turn
UPDATE shard SET last_turn = greatest(last_turn, turn) + 1 RETURNING last_turn, shards;

-- name: sale_shard
SELECT shard_id FROM sale_shard WHERE sale_id = $1;

-- name: announce_sale
INSERT INTO sale_shard (sale_id, shard_id, turn, terms) VALUES ($1, $2, $3, $4)
ON CONFLICT (sale_id) DO UPDATE SET turn = excluded.turn, terms = coalesce(sale_shard.terms, excluded.terms);

-- name: announce_skus
INSERT INTO sale_sku (sku_id, sale_id) SELECT sku_id, $1 FROM unnest($2::text[]) AS s(sku_id) ORDER BY 1
ON CONFLICT DO NOTHING;

-- name: rivals
SELECT DISTINCT sale_id, shard_id FROM sale_sku JOIN sale_shard USING (sale_id)
WHERE sku_id = ANY ($1::text[]) AND sale_id <> $2 ORDER BY 1;

-- A sale that was announced and refused, if nobody has announced it again since: it is not shown, and keeps no product
-- from others. Its id stays with its shard, because others may have looked it up.

-- name: take_back
WITH refused AS (UPDATE sale_shard SET terms = NULL WHERE sale_id = $1 AND turn = $2 RETURNING sale_id)
DELETE FROM sale_sku USING refused WHERE sale_sku.sale_id = refused.sale_id;

-- What is shown of a sale while its shard cannot be asked.

-- name: announced_terms
SELECT terms FROM sale_shard WHERE shard_id = $1 AND terms IS NOT NULL ORDER BY sale_id;

-- name: keep_terms
UPDATE sale_shard SET terms = $2 WHERE sale_id = $1;

-- A sale that has ended, or is gone, keeps no product from others.

-- name: forget_skus
DELETE FROM sale_sku USING sale_shard
WHERE sale_sku.sale_id = sale_shard.sale_id AND sale_sku.sale_id = ANY ($1::text[]) AND sale_shard.turn < $2;

-- The fence of a shard.

-- name: fence
SELECT turn FROM shard;

-- name: raise_fence
UPDATE shard SET turn = $1 WHERE turn < $1;

-- Which shard may use a transaction.

-- name: rights
SELECT provider, transaction_id, t.shard_id, t.turn, t.shard_id = s.shard_id
FROM unnest($1::text[], $2::text[]) AS w(provider, transaction_id)
JOIN transaction_shard AS t USING (provider, transaction_id) CROSS JOIN shard AS s;

-- name: put_rights
INSERT INTO transaction_shard (provider, transaction_id, shard_id, turn)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[]) ORDER BY 1, 2
ON CONFLICT (provider, transaction_id) DO UPDATE SET shard_id = excluded.shard_id, turn = excluded.turn;

-- name: drop_rights
DELETE FROM transaction_shard USING unnest($1::text[], $2::text[]) AS d(provider, transaction_id)
WHERE transaction_shard.provider = d.provider AND transaction_shard.transaction_id = d.transaction_id;
