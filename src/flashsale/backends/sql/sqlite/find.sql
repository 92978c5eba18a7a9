-- The questions of ports.py. Every list is bounded.

-- name: active_reservations
SELECT r.reservation_id, r.user_id, r.sale_id, r.sku_id, r.quantity, r.status, r.unit_price_minor, r.currency,
       r.created_at_ms, r.expires_at_ms, r.request_kind, r.request_key, r.order_id, r.returned_quantity
FROM json_each(?1) AS a -- [place, user_id, sale_id]
CROSS JOIN by_user AS b ON b.level IN (0, 1, 2) AND b.place = a.value ->> 0
CROSS JOIN reservation AS r ON r.seq = b.seq AND r.user_id = a.value ->> 1 AND r.sale_id = a.value ->> 2
WHERE r.status = 'RESERVED' AND r.expires_at_ms > ?2 ORDER BY r.seq DESC LIMIT 200;

-- name: sale_ids
SELECT sale_id FROM sale;

-- name: order_of_reservation
SELECT order_id FROM reservation WHERE reservation_id = ?1;

-- name: orders_of_user
SELECT order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
       created_at_ms, sequence, reason, transaction_id
FROM orders WHERE user_id = ?1 ORDER BY order_id DESC LIMIT 200;

-- name: journal_page
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after,
       sold_after, reservation_id, actor, reason, at_ms
FROM journal NOT INDEXED WHERE sale_id = ?1 AND seq > ?3 ORDER BY seq LIMIT ?4;

-- name: journal_page_of_sku
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after,
       sold_after, reservation_id, actor, reason, at_ms
FROM journal INDEXED BY journal_sku_seq
WHERE sale_id = ?1 AND sku_id = ?2
  AND sku_seq > coalesce((SELECT j.sku_seq FROM journal AS j NOT INDEXED
                          WHERE j.seq <= ?3 AND j.sale_id = ?1 AND j.sku_id = ?2 ORDER BY j.seq DESC LIMIT 1), 0)
ORDER BY sku_seq LIMIT ?4;

-- Movements and order events in one shape (an order event has a topic), read by one statement: of both it sees the
-- same moment. Each half stops at the limit by itself: a backlog is never sorted.

-- name: events_page
SELECT * FROM (
    SELECT seq, topic, type, subject, sequence, body, at_ms, NULL, NULL, NULL, NULL, NULL, NULL, NULL, trace_id
    FROM outbox
    WHERE seq > ?1
        AND (?2 IS NULL OR topic = ?2)
    ORDER BY seq LIMIT ?3
)
UNION ALL
SELECT * FROM (
    SELECT seq, NULL, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after, sold_after, reservation_id,
           actor, reason, at_ms, trace_id
    FROM journal
    WHERE seq > ?1
        AND (?2 IS NULL OR ?2 IN ('flashsale.inventory', 'flashsale.reservations'))
        AND (reservation_id IS NOT NULL OR ?2 IS NOT 'flashsale.reservations')
    ORDER BY seq LIMIT ?3
)
ORDER BY 1 LIMIT ?3;

-- What a relay has not passed on: how much, up to a limit, and since when.

-- name: events_waiting
SELECT count(*), min(at_ms) FROM (
    SELECT at_ms FROM (
        SELECT seq, at_ms FROM journal WHERE seq > coalesce((SELECT cursor FROM relay WHERE relay = ?1), 0)
        UNION ALL
        SELECT seq, at_ms FROM outbox WHERE seq > coalesce((SELECT cursor FROM relay WHERE relay = ?1), 0)
    ) AS told LIMIT ?2
) AS waiting;

-- What was forgotten, and what may be.

-- name: pruned_to
SELECT seq FROM pruned;

-- name: bases
SELECT sale_id, sku_id, sku_seq, total, held, sold, reservations FROM journal_base WHERE sale_id = ?1 ORDER BY sku_id;

-- A relay that has never passed anything on has no row.

-- name: prune_reach
SELECT (SELECT coalesce(min(coalesce(r.cursor, 0)), 9223372036854775807)
        FROM json_each(?2) AS w LEFT JOIN relay AS r ON r.relay = w.value),
       max(0, max((SELECT coalesce(max(seq), 0) FROM journal), (SELECT coalesce(max(seq), 0) FROM outbox)) - ?1);

-- name: next_product_of_sale
SELECT sale_id, sku_id FROM journal INDEXED BY journal_sku_seq WHERE sale_id = ?1 AND sku_id > ?2 ORDER BY sku_id LIMIT 1;

-- name: next_product
SELECT sale_id, sku_id FROM journal INDEXED BY journal_sku_seq WHERE sale_id > ?1 ORDER BY sale_id, sku_id LIMIT 1;

-- name: audit_page
SELECT seq, at_ms, actor, action, subject, details FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2;

-- name: due_payments
SELECT payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
       tries, failure, reason, created_at_ms
FROM payment WHERE due IS NOT NULL AND due_at_ms <= ?1 ORDER BY due_at_ms LIMIT ?2;

-- name: due_refunds
SELECT f.refund_id, f.order_id, f.payment_id, f.amount_minor, f.reason, f.done, f.due_at_ms, f.created_at_ms,
       p.payment_id, p.order_id, p.provider, p.transaction_id, p.amount_minor, p.currency, p.status, p.due, p.due_at_ms,
       p.tries, p.failure, p.reason, p.created_at_ms
FROM refund AS f JOIN payment AS p USING (payment_id)
WHERE f.done = 0 AND f.due_at_ms <= ?1 ORDER BY f.due_at_ms LIMIT ?2;

-- name: reservation_figures
SELECT count(*), count(DISTINCT user_id) FROM reservation WHERE sale_id = ?1;

-- name: order_figures
SELECT count(*),
       count(*) FILTER (WHERE status IN ('PAID', 'PROCESSING', 'SHIPPED', 'DELIVERED')),
       count(*) FILTER (WHERE status IN ('CANCELLED', 'EXPIRED', 'REFUNDING', 'REFUNDED')),
       coalesce(sum(total_minor) FILTER (WHERE status IN ('PAID', 'PROCESSING', 'SHIPPED', 'DELIVERED')), 0)
FROM orders WHERE sale_id = ?1;

-- name: peak_orders
SELECT coalesce(max(orders_a_second), 0)
FROM (SELECT count(*) AS orders_a_second FROM orders WHERE sale_id = ?1 GROUP BY created_at_ms / 1000);

-- name: refusal_figures
SELECT code, times FROM refusal_count WHERE sale_id = ?1 ORDER BY code;

-- The proofs of a sale's counters: each row of an answer is one discrepancy.

-- name: proof_reservations
WITH counted AS (
    SELECT sku_id,
           coalesce(sum(quantity) FILTER (WHERE status = 'RESERVED'), 0) AS held,
           coalesce(sum(quantity - returned_quantity) FILTER (WHERE status IN ('CONFIRMED', 'RETURNED')), 0) AS sold
    FROM reservation WHERE sale_id = ?1 GROUP BY sku_id)
SELECT printf('%s: counters say %d held and %d sold, reservations %d and %d',
              s.sku_id, s.held, s.sold, coalesce(c.held, 0), coalesce(c.sold, 0))
FROM stock AS s LEFT JOIN counted AS c USING (sku_id)
WHERE s.sale_id = ?1 AND (s.held <> coalesce(c.held, 0) OR s.sold <> coalesce(c.sold, 0));

-- name: proof_nothing_left_over
SELECT printf('%s: reservations hold or own %d units of a product that is not in the sale', r.sku_id, sum(r.quantity))
FROM reservation AS r
WHERE r.sale_id = ?1 AND r.status IN ('RESERVED', 'CONFIRMED')
  AND NOT EXISTS (SELECT 1 FROM stock AS s WHERE s.sale_id = r.sale_id AND s.sku_id = r.sku_id)
GROUP BY r.sku_id;

-- name: proof_requests
SELECT printf('%s: user %s was granted %d times for one request', sku_id, user_id, count(*))
FROM reservation WHERE sale_id = ?1 AND request_key IS NOT NULL
GROUP BY user_id, request_key, sku_id HAVING count(*) > 1 LIMIT 100;

-- name: proof_by_user
SELECT printf('%s: reservation %s is not found by its user', r.sku_id, r.reservation_id)
FROM reservation AS r
WHERE r.sale_id = ?1 AND (r.status IN ('RESERVED', 'CONFIRMED') OR r.request_key IS NOT NULL)
  AND 1 <> (SELECT count(*) FROM by_user AS b
            WHERE b.level IN (0, 1, 2) AND b.seq = r.seq
              AND b.place = CASE WHEN r.status IN ('RESERVED', 'CONFIRMED') THEN place(r.user_id, r.sale_id)
                                 ELSE place(r.user_id, r.sale_id, r.request_key) END)
LIMIT 100;

-- A mark has 17 characters, and a blank stands between two.

-- name: proof_origins
WITH counted AS (
    SELECT reservation_id, sum(quantity) AS units FROM origin WHERE sale_id = ?1 GROUP BY reservation_id)
SELECT printf('%s: reservation %s counts with %d units where it came from', r.sku_id, r.reservation_id, coalesce(c.units, 0))
FROM reservation AS r LEFT JOIN counted AS c USING (reservation_id)
WHERE r.sale_id = ?1 AND (r.origin IS NOT NULL OR c.units IS NOT NULL)
  AND coalesce(c.units, 0) <> CASE WHEN r.status IN ('RESERVED', 'CONFIRMED')
                                   THEN r.quantity * ((coalesce(length(r.origin), -1) + 1) / 18) ELSE 0 END
LIMIT 100;

-- The movements that were forgotten are in the base; those that are kept go on from its number.

-- name: proof_journal
WITH counted AS (
    SELECT j.sku_id, count(*) AS movements, max(j.sku_seq) AS last_seq,
           sum(CASE WHEN kind IN ('STOCK', 'RESTOCK', 'ADJUST') THEN quantity ELSE 0 END) AS total,
           sum(CASE WHEN kind = 'RESERVE' THEN quantity WHEN kind IN ('RELEASE', 'EXPIRE', 'CONFIRM') THEN -quantity
               ELSE 0 END) AS held,
           sum(CASE WHEN kind IN ('CONFIRM', 'HONOUR') THEN quantity WHEN kind = 'RETURN' THEN -quantity
               ELSE 0 END) AS sold
    FROM journal AS j LEFT JOIN journal_base AS b USING (sale_id, sku_id)
    WHERE j.sale_id = ?1 AND j.sku_seq > coalesce(b.sku_seq, 0) GROUP BY j.sku_id),
summed AS (
    SELECT s.sku_id, coalesce(b.sku_seq, 0) + coalesce(c.movements, 0) AS movements,
           coalesce(c.last_seq, b.sku_seq) AS last_seq, coalesce(b.total, 0) + coalesce(c.total, 0) AS total,
           coalesce(b.held, 0) + coalesce(c.held, 0) AS held, coalesce(b.sold, 0) + coalesce(c.sold, 0) AS sold
    FROM stock AS s LEFT JOIN counted AS c USING (sku_id) LEFT JOIN journal_base AS b USING (sale_id, sku_id)
    WHERE s.sale_id = ?1)
SELECT printf('%s: counters say %d total, %d held, %d sold after movement %d; the journal sums to %d, %d, %d in %d of %d',
              s.sku_id, s.total, s.held, s.sold, s.sku_seq, j.total, j.held, j.sold, j.movements, j.last_seq)
FROM stock AS s LEFT JOIN summed AS j USING (sku_id)
WHERE s.sale_id = ?1
  AND (s.total, s.held, s.sold, s.sku_seq, s.sku_seq) IS NOT (j.total, j.held, j.sold, j.last_seq, j.movements);
