-- What a transaction of the ledger reads and writes. Lists come in as arrays. A plan is made once, when the tables
-- may be empty, and has to be right when they are not: the connection plans by index only (connect.py), and LATERAL
-- with OFFSET 0 holds the order of a join, from what was asked for to the rows.

-- Before the transaction: what it will need.

-- name: lapsed
SELECT reservation_id FROM reservation
WHERE status = 'RESERVED' AND expires_at_ms <= $1
ORDER BY expires_at_ms LIMIT $2;

-- name: lapsed_of_users
SELECT r.reservation_id
FROM unnest($1::text[], $2::text[]) AS a(user_id, sale_id)
CROSS JOIN LATERAL (
    SELECT * FROM reservation AS r
    WHERE r.user_id = a.user_id AND r.sale_id = a.sale_id AND r.status IN ('RESERVED', 'CONFIRMED') OFFSET 0
) AS r
WHERE r.status = 'RESERVED' AND r.expires_at_ms <= $3;

-- name: next_expiry
SELECT expires_at_ms FROM reservation WHERE status = 'RESERVED' ORDER BY expires_at_ms LIMIT 1;

-- What hangs together: from reservations ($1), orders ($2), payments ($3) and refunds ($4) to all orders and
-- reservations of theirs, and to the products of these.

-- name: resolve
WITH o AS (
    SELECT unnest($2::text[]) AS order_id
    UNION SELECT order_id FROM payment WHERE payment_id = ANY ($3::text[])
    UNION SELECT order_id FROM refund WHERE refund_id = ANY ($4::text[])
    UNION SELECT order_id FROM reservation WHERE reservation_id = ANY ($1::text[]) AND order_id IS NOT NULL
), r AS (
    SELECT unnest($1::text[]) AS reservation_id
    UNION SELECT line ->> 'reservation_id'
    FROM o JOIN orders USING (order_id) CROSS JOIN jsonb_array_elements(orders.lines) AS line
)
SELECT ARRAY(SELECT order_id FROM o) AS order_ids,
       ARRAY(SELECT reservation_id FROM r) AS reservation_ids,
       ARRAY(SELECT DISTINCT sale_id || ' ' || sku_id FROM r JOIN reservation USING (reservation_id)) AS lines,
       ARRAY(SELECT provider || ' ' || transaction_id FROM payment WHERE payment_id = ANY ($3::text[])) AS transactions;

-- In the transaction: first the products, in the order of their locks. A lock of its own instead of the row's,
-- because waiting for a row needs a transaction id: this way the ids of transactions on one product rise in the
-- order in which they have it, and one that only refuses writes nothing.

-- name: lock
SELECT count(pg_advisory_xact_lock(place))
FROM (SELECT DISTINCT hashtextextended(line, 0) AS place FROM unnest($1::text[]) AS line ORDER BY 1) AS places;

-- name: now
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms;

-- Then all that the products ($1, $2), the users' limits ($3, $4) and the request keys ($5, $6, $7) have, and the
-- time: in one journey, because the others wait for the locks.

-- name: load
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
    ARRAY(SELECT ROW(sale_id, version, created_at_ms) FROM sale) AS versions,
    ARRAY(
        SELECT ROW(s.sale_id, s.sku_id, s.total, s.held, s.sold, s.sku_seq)
        FROM unnest($1::text[], $2::text[]) AS a(sale_id, sku_id) JOIN stock AS s USING (sale_id, sku_id)
    ) AS stock,
    ARRAY(
        SELECT ROW(a.user_id, a.sale_id, r.sku_id, sum(r.quantity)::bigint)
        FROM unnest($3::text[], $4::text[]) AS a(user_id, sale_id)
        CROSS JOIN LATERAL (
            SELECT * FROM reservation AS r
            WHERE r.user_id = a.user_id AND r.sale_id = a.sale_id AND r.status IN ('RESERVED', 'CONFIRMED') OFFSET 0
        ) AS r
        GROUP BY a.user_id, a.sale_id, r.sku_id
    ) AS claims,
    ARRAY(
        SELECT ROW(r.reservation_id, r.user_id, r.sale_id, r.sku_id, r.quantity, r.status, r.unit_price_minor, r.currency,
                   r.created_at_ms, r.expires_at_ms, r.request_kind, r.request_key, r.order_id, r.returned_quantity,
                   r.refusal, r.redrive_of, r.origin)
        FROM unnest($5::text[], $6::text[], $7::text[]) AS a(user_id, sale_id, request_key)
        CROSS JOIN LATERAL (
            SELECT * FROM reservation AS r
            WHERE r.user_id = a.user_id AND r.sale_id = a.sale_id AND r.request_key = a.request_key OFFSET 0
        ) AS r
    ) AS requests;

-- What devices and networks ($2 in the sales $1) hold and have bought.

-- name: origins
SELECT a.sale_id, a.mark, sum(o.quantity)::bigint
FROM unnest($1::text[], $2::text[]) AS a(sale_id, mark) JOIN origin AS o USING (sale_id, mark)
GROUP BY a.sale_id, a.mark;

-- name: versions
SELECT sale_id, version, created_at_ms FROM sale;

-- name: terms
SELECT terms FROM sale WHERE sale_id = ANY ($1::text[]);

-- name: sales
SELECT terms FROM sale ORDER BY created_at_ms, sale_id;

-- name: reservations
SELECT r.reservation_id, r.user_id, r.sale_id, r.sku_id, r.quantity, r.status, r.unit_price_minor, r.currency,
       r.created_at_ms, r.expires_at_ms, r.request_kind, r.request_key, r.order_id, r.returned_quantity,
       r.refusal, r.redrive_of, r.origin
FROM reservation AS r WHERE r.reservation_id = ANY ($1::text[]) ORDER BY r.seq;

-- name: orders
SELECT order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
       created_at_ms, sequence, reason, transaction_id
FROM orders WHERE order_id = ANY ($1::text[]);

-- name: payments_of_orders
SELECT payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
       tries, failure, reason, created_at_ms
FROM payment WHERE order_id = ANY ($1::text[]);

-- The payments that hold these transactions already.

-- name: payment_claims
SELECT p.payment_id, p.order_id, p.provider, p.transaction_id, p.amount_minor, p.currency, p.status, p.due, p.due_at_ms,
       p.tries, p.failure, p.reason, p.created_at_ms
FROM unnest($1::text[], $2::text[]) AS wanted(provider, transaction_id) JOIN payment AS p USING (provider, transaction_id)
WHERE p.status <> 1 OR p.due IS NOT NULL;

-- name: refunds_of_orders
SELECT refund_id, order_id, payment_id, amount_minor, reason, done, due_at_ms, created_at_ms
FROM refund WHERE order_id = ANY ($1::text[]);

-- Storing. First the counters, and the number that those of this transaction's rows are counted from. New rows are
-- copied in (rows.py).

-- name: changed_stock
WITH changed AS (
    UPDATE stock AS s SET total = n.total, held = n.held, sold = n.sold, sku_seq = n.sku_seq
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        AS n(sale_id, sku_id, total, held, sold, sku_seq, seq_before)
    WHERE s.sale_id = n.sale_id AND s.sku_id = n.sku_id AND s.sku_seq = n.seq_before
    RETURNING 1
)
SELECT count(*) AS changed, flashsale_seq() AS seq FROM changed;

-- name: seq
SELECT flashsale_seq() AS seq;

-- name: changed_reservations
UPDATE reservation AS r SET status = n.status, order_id = n.order_id, returned_quantity = n.returned_quantity
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
    AS n(reservation_id, before, status, order_id, returned_quantity)
WHERE r.reservation_id = n.reservation_id AND r.status = n.before
RETURNING 1;

-- name: gone_origins
DELETE FROM origin AS o USING unnest($1::text[], $2::text[], $3::text[]) AS n(sale_id, mark, reservation_id)
WHERE o.sale_id = n.sale_id AND o.mark = n.mark AND o.reservation_id = n.reservation_id;

-- Order events are numbered behind the movements of their transaction: from $8.

-- name: outbox
INSERT INTO outbox (seq, topic, type, subject, sequence, at_ms, body, trace_id)
SELECT $8::bigint + n.place, n.topic, n.type, n.subject, n.sequence, n.at_ms, n.body, n.trace_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::json[], $7::text[]) WITH ORDINALITY
    AS n(topic, type, subject, sequence, at_ms, body, trace_id, place);

-- name: order
INSERT INTO orders (order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
    created_at_ms, sequence, reason, transaction_id, total_minor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, sequence = excluded.sequence, reason = excluded.reason,
    transaction_id = excluded.transaction_id
WHERE excluded.sequence > orders.sequence;

-- name: payment
INSERT INTO payment (payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
    tries, failure, reason, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (payment_id) DO UPDATE SET status = excluded.status, due = excluded.due, due_at_ms = excluded.due_at_ms,
    tries = excluded.tries, failure = excluded.failure, reason = excluded.reason
WHERE excluded.status >= payment.status;

-- name: refund
INSERT INTO refund (refund_id, order_id, payment_id, amount_minor, reason, done, due_at_ms, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (refund_id) DO UPDATE SET done = excluded.done, due_at_ms = excluded.due_at_ms;

-- name: refusals
INSERT INTO refusal_count AS c (sale_id, code, times)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n(sale_id, code, times) ORDER BY 1, 2
ON CONFLICT (sale_id, code) DO UPDATE SET times = c.times + excluded.times;

-- The writer's mark: committed with every batch.

-- name: gone_writers
DELETE FROM writer WHERE seen_at_ms < floor(extract(epoch FROM clock_timestamp()) * 1000) - $1::bigint;

-- name: new_writer
INSERT INTO writer (writer_id, batch, seen_at_ms)
VALUES ($1, 0, floor(extract(epoch FROM clock_timestamp()) * 1000)) ON CONFLICT DO NOTHING;

-- name: mark
UPDATE writer SET batch = $2, seen_at_ms = floor(extract(epoch FROM clock_timestamp()) * 1000)
WHERE writer_id = $1 RETURNING 1;

-- Waits for the transaction that has the row, if there still is one.

-- name: marked
SELECT batch FROM writer WHERE writer_id = $1 FOR UPDATE;

-- Sales. All changes of sales exclude each other.

-- name: lock_catalogue
SELECT pg_advisory_xact_lock(hashtextextended('flashsale catalogue', 0));

-- name: stock_of_sale
SELECT sale_id, sku_id, total, held, sold, sku_seq FROM stock WHERE $1::text IS NULL OR sale_id = $1
ORDER BY sku_id, sale_id;

-- name: has_orders
SELECT EXISTS (SELECT 1 FROM orders WHERE sale_id = $1);

-- name: was_used
SELECT EXISTS (SELECT 1 FROM journal WHERE sale_id = $1 AND reservation_id IS NOT NULL)
    OR EXISTS (SELECT 1 FROM journal_base WHERE sale_id = $1 AND reservations > 0)
    OR EXISTS (SELECT 1 FROM room WHERE sale_id = $1 AND arrivals > 0);

-- name: has_line
SELECT EXISTS (SELECT 1 FROM room WHERE sale_id = $1 AND (phase <> 'OPEN' OR arrivals > entrants));

-- name: last_seq
SELECT greatest((SELECT max(sku_seq) FROM journal WHERE sale_id = $1 AND sku_id = $2),
                (SELECT sku_seq FROM journal_base WHERE sale_id = $1 AND sku_id = $2), 0)::bigint;

-- name: put_sale
INSERT INTO sale (sale_id, terms, version, created_at_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (sale_id) DO UPDATE SET terms = excluded.terms, version = excluded.version;

-- name: opened_stock
INSERT INTO stock (sale_id, sku_id, total, held, sold, sku_seq) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (sale_id, sku_id) DO UPDATE SET total = excluded.total, held = excluded.held, sold = excluded.sold,
    sku_seq = excluded.sku_seq;

-- name: delete_stock
DELETE FROM stock WHERE sale_id = $1 AND ($2::text IS NULL OR sku_id = $2);

-- name: delete_sale
DELETE FROM sale WHERE sale_id = $1;

-- name: audit
INSERT INTO audit (at_ms, actor, action, subject, details) VALUES ($1, $2, $3, $4, $5);
