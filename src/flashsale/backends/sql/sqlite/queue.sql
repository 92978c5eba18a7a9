-- The ledger's own queue and its dead letters.

-- name: secret
SELECT value FROM secret WHERE name = 'ids';

-- name: enqueue
INSERT INTO queue (name, sale_id, sku_id, priority, message) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: taken
DELETE FROM queue WHERE place IN (SELECT value FROM json_each(?1));

-- name: page
SELECT place, sku_id, message FROM queue
WHERE priority = ?1 AND sale_id NOT IN (SELECT value FROM json_each(?2)) ORDER BY place LIMIT ?3;

-- name: figures
SELECT sale_id, count(*) FROM queue GROUP BY sale_id;

-- name: bury
INSERT INTO dead_letter (letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids,
    redriven_as, redriven_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: redriven
UPDATE dead_letter SET redriven_as = ?2, redriven_at_ms = ?3 WHERE letter_id = ?1 AND redriven_at_ms IS NULL
RETURNING 1;

-- name: letter
SELECT letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids, redriven_as, redriven_at_ms
FROM dead_letter WHERE letter_id = ?1;

-- name: letters
SELECT letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids, redriven_as, redriven_at_ms
FROM dead_letter WHERE letter_id > ?1 AND (NOT ?3 OR redriven_at_ms IS NULL) ORDER BY letter_id LIMIT ?2;

-- name: letter_count
SELECT count(*) FROM dead_letter WHERE redriven_at_ms IS NULL;

-- A reservation that was withdrawn before its request arrived.

-- name: fill
UPDATE reservation SET user_id = ?2, sale_id = ?3, sku_id = ?4, quantity = ?5, unit_price_minor = ?6, currency = ?7,
    request_kind = ?8
WHERE reservation_id = ?1 AND sale_id = ''
RETURNING 1;

-- name: audit
INSERT INTO audit (at_ms, actor, action, subject, details) VALUES (?1, ?2, ?3, ?4, ?5);
