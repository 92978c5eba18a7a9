-- The ledger's own queue and its dead letters.

-- name: secret
SELECT value FROM secret WHERE name = 'ids';

-- name: enqueue
INSERT INTO queue (name, sale_id, sku_id, priority, message)
SELECT name, sale_id, sku_id, priority, message
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY
    AS n(name, sale_id, sku_id, priority, message, nr)
ORDER BY nr
ON CONFLICT DO NOTHING;

-- name: taken
DELETE FROM queue WHERE place = ANY ($1::bigint[]);

-- name: page
SELECT place, sku_id, message FROM queue
WHERE priority = $1 AND sale_id <> ALL ($2::text[]) ORDER BY place LIMIT $3;

-- name: figures
SELECT sale_id, count(*) FROM queue GROUP BY sale_id;

-- name: bury
INSERT INTO dead_letter (letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids,
    redriven_as, redriven_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: redriven
UPDATE dead_letter SET redriven_as = $2, redriven_at_ms = $3 WHERE letter_id = $1 AND redriven_at_ms IS NULL
RETURNING 1;

-- name: letter
SELECT letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids, redriven_as, redriven_at_ms
FROM dead_letter WHERE letter_id = $1;

-- name: letters
SELECT letter_id, at_ms, topic, partition, "offset", message, error, tries, reservation_ids, redriven_as, redriven_at_ms
FROM dead_letter WHERE letter_id > $1 AND (NOT $3 OR redriven_at_ms IS NULL) ORDER BY letter_id LIMIT $2;

-- name: letter_count
SELECT count(*) FROM dead_letter WHERE redriven_at_ms IS NULL;

-- A reservation that was withdrawn before its request arrived.

-- name: fill
UPDATE reservation SET user_id = $2, sale_id = $3, sku_id = $4, quantity = $5, unit_price_minor = $6, currency = $7,
    request_kind = $8
WHERE reservation_id = $1 AND sale_id = ''
RETURNING 1;

-- name: audit
INSERT INTO audit (at_ms, actor, action, subject, details) VALUES ($1, $2, $3, $4, $5);
