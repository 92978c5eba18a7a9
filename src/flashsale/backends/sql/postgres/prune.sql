-- Forgetting what was told (core/retention.py): a batch of rows is read, looked at, and deleted in one transaction.

-- One process at a time; nothing when another one is at it.

-- name: alone
SELECT pg_try_advisory_xact_lock(hashtextextended('flashsale prune', 0));

-- name: oldest_events
SELECT seq, at_ms FROM outbox WHERE seq <= $1 ORDER BY seq LIMIT $2;

-- name: delete_events
DELETE FROM outbox WHERE seq <= $1;

-- name: newest_movement
SELECT at_ms FROM journal WHERE sale_id = $1 AND sku_id = $2 ORDER BY sku_seq DESC LIMIT 1;

-- name: oldest_movements
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after,
       sold_after, reservation_id, actor, reason, at_ms
FROM journal WHERE sale_id = $1 AND sku_id = $2 ORDER BY sku_seq LIMIT $3;

-- name: base
SELECT sale_id, sku_id, sku_seq, total, held, sold, reservations
FROM journal_base WHERE sale_id = $1 AND sku_id = $2;

-- name: delete_movements
DELETE FROM journal WHERE sale_id = $1 AND sku_id = $2 AND sku_seq <= $3;

-- name: put_base
INSERT INTO journal_base (sale_id, sku_id, sku_seq, total, held, sold, reservations) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (sale_id, sku_id) DO UPDATE SET sku_seq = excluded.sku_seq, total = excluded.total,
    held = excluded.held, sold = excluded.sold, reservations = excluded.reservations;

-- name: pruned_to
UPDATE pruned SET seq = $1 WHERE seq < $1;
