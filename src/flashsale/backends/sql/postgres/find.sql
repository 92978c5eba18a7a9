-- The questions of ports.py. Every list is bounded.

-- name: active_reservations
SELECT reservation_id, user_id, sale_id, sku_id, quantity, status, unit_price_minor, currency,
       created_at_ms, expires_at_ms, request_kind, request_key, order_id, returned_quantity
FROM reservation WHERE user_id = $1 AND status = 'RESERVED' AND expires_at_ms > $2
ORDER BY seq DESC LIMIT 200;

-- name: order_of_reservation
SELECT order_id FROM reservation WHERE reservation_id = $1;

-- name: orders_of_user
SELECT order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
       created_at_ms, sequence, reason, transaction_id
FROM orders WHERE user_id = $1 ORDER BY order_id DESC LIMIT 200;

-- A row whose transaction began after one that is still under way is kept back: what is shown is never overtaken.

-- name: journal_page
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after, sold_after, reservation_id, actor,
       reason, at_ms
FROM journal
WHERE sale_id = $1 AND ($2::text IS NULL OR sku_id = $2) AND seq > $3
  AND seq < (SELECT flashsale_horizon())
ORDER BY seq LIMIT $4;

-- Movements and order events in one shape (an order event has a topic), read by one statement: of both it sees the
-- same moment. Both are kept back behind the oldest transaction under way, as above. Each half stops at the limit by
-- itself: a backlog is never sorted.

-- name: events_page
(
    SELECT seq, topic, type, subject, sequence, body::text, at_ms, NULL, NULL, NULL, NULL, NULL, NULL, NULL, trace_id
    FROM outbox
    WHERE seq > $1
        AND seq < (SELECT flashsale_horizon())
        AND ($2::text IS NULL OR topic = $2::text)
    ORDER BY seq LIMIT $3
)
UNION ALL
(
    SELECT seq, NULL, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after, sold_after, reservation_id,
           actor, reason, at_ms, trace_id
    FROM journal
    WHERE seq > $1
        AND seq < (SELECT flashsale_horizon())
        AND ($2::text IS NULL OR $2::text IN ('flashsale.inventory', 'flashsale.reservations'))
        AND (reservation_id IS NOT NULL OR $2::text IS DISTINCT FROM 'flashsale.reservations')
    ORDER BY seq LIMIT $3
)
ORDER BY 1 LIMIT $3;

-- What a relay has not passed on: how much, up to a limit, and since when.

-- name: events_waiting
SELECT count(*), min(at_ms) FROM (
    SELECT at_ms FROM (
        SELECT seq, at_ms FROM journal WHERE seq > coalesce((SELECT cursor FROM relay WHERE relay = $1), 0)
        UNION ALL
        SELECT seq, at_ms FROM outbox WHERE seq > coalesce((SELECT cursor FROM relay WHERE relay = $1), 0)
    ) AS told LIMIT $2
) AS waiting;

-- What was forgotten, and what may be.

-- name: pruned_to
SELECT seq FROM pruned;

-- name: bases
SELECT sale_id, sku_id, sku_seq, total, held, sold, reservations FROM journal_base WHERE sale_id = $1 ORDER BY sku_id;

-- A relay that has never passed anything on has no row. What is kept back from readers is not passed on by anybody.

-- name: prune_reach
SELECT least((SELECT min(coalesce(r.cursor, 0)) FROM unnest($2::text[]) AS w(relay) LEFT JOIN relay AS r USING (relay)),
             flashsale_horizon() - 1),
       coalesce((SELECT seq FROM (SELECT seq FROM journal UNION ALL SELECT seq FROM outbox) AS told
                 ORDER BY seq DESC OFFSET $1::bigint LIMIT 1), 0);

-- name: next_product_of_sale
SELECT sale_id, sku_id FROM journal WHERE sale_id = $1 AND sku_id > $2 ORDER BY sku_id LIMIT 1;

-- name: next_product
SELECT sale_id, sku_id FROM journal WHERE sale_id > $1 ORDER BY sale_id, sku_id LIMIT 1;

-- name: audit_page
SELECT seq, at_ms, actor, action, subject, details FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: due_payments
SELECT payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
       tries, failure, reason, created_at_ms
FROM payment WHERE due IS NOT NULL AND due_at_ms <= $1 ORDER BY due_at_ms LIMIT $2;

-- name: due_refunds
SELECT f.refund_id, f.order_id, f.payment_id, f.amount_minor, f.reason, f.done, f.due_at_ms, f.created_at_ms,
       p.payment_id, p.order_id, p.provider, p.transaction_id, p.amount_minor, p.currency, p.status, p.due, p.due_at_ms,
       p.tries, p.failure, p.reason, p.created_at_ms
FROM refund AS f JOIN payment AS p USING (payment_id)
WHERE NOT f.done AND f.due_at_ms <= $1 ORDER BY f.due_at_ms LIMIT $2;

-- name: reservation_figures
SELECT count(*), count(DISTINCT user_id) FROM reservation WHERE sale_id = $1;

-- name: order_figures
SELECT count(*),
       count(*) FILTER (WHERE status IN ('PAID', 'PROCESSING', 'SHIPPED', 'DELIVERED')),
       count(*) FILTER (WHERE status IN ('CANCELLED', 'EXPIRED', 'REFUNDING', 'REFUNDED')),
       coalesce(sum(total_minor) FILTER (WHERE status IN ('PAID', 'PROCESSING', 'SHIPPED', 'DELIVERED')), 0)::bigint
FROM orders WHERE sale_id = $1;

-- name: peak_orders
SELECT coalesce(max(orders_a_second), 0)
FROM (SELECT count(*) AS orders_a_second FROM orders WHERE sale_id = $1 GROUP BY created_at_ms / 1000) AS seconds;

-- name: refusal_figures
SELECT code, times FROM refusal_count WHERE sale_id = $1 ORDER BY code;

-- The proofs of a sale's counters: each row of an answer is one discrepancy.

-- name: proof_reservations
WITH counted AS (
    SELECT sku_id,
           coalesce(sum(quantity) FILTER (WHERE status = 'RESERVED'), 0)::bigint AS held,
           coalesce(sum(quantity - returned_quantity) FILTER (WHERE status IN ('CONFIRMED', 'RETURNED')), 0)::bigint
               AS sold
    FROM reservation WHERE sale_id = $1 GROUP BY sku_id)
SELECT format('%s: counters say %s held and %s sold, reservations %s and %s',
              s.sku_id, s.held, s.sold, coalesce(c.held, 0), coalesce(c.sold, 0))
FROM stock AS s LEFT JOIN counted AS c USING (sku_id)
WHERE s.sale_id = $1 AND (s.held <> coalesce(c.held, 0) OR s.sold <> coalesce(c.sold, 0));

-- name: proof_nothing_left_over
SELECT format('%s: reservations hold or own %s units of a product that is not in the sale', r.sku_id, sum(r.quantity))
FROM reservation AS r
WHERE r.sale_id = $1 AND r.status IN ('RESERVED', 'CONFIRMED')
  AND NOT EXISTS (SELECT 1 FROM stock AS s WHERE s.sale_id = r.sale_id AND s.sku_id = r.sku_id)
GROUP BY r.sku_id;

-- name: proof_requests
SELECT format('%s: user %s was granted %s times for one request', sku_id, user_id, count(*))
FROM reservation WHERE sale_id = $1 AND request_key IS NOT NULL
GROUP BY user_id, request_key, sku_id HAVING count(*) > 1 LIMIT 100;

-- A mark has 17 characters, and a blank stands between two.

-- name: proof_origins
WITH counted AS (
    SELECT reservation_id, sum(quantity) AS units FROM origin WHERE sale_id = $1 GROUP BY reservation_id)
SELECT format('%s: reservation %s counts with %s units where it came from', r.sku_id, r.reservation_id, coalesce(c.units, 0))
FROM reservation AS r LEFT JOIN counted AS c USING (reservation_id)
WHERE r.sale_id = $1 AND (r.origin IS NOT NULL OR c.units IS NOT NULL)
  AND coalesce(c.units, 0) <> CASE WHEN r.status IN ('RESERVED', 'CONFIRMED')
                                   THEN r.quantity * ((coalesce(length(r.origin), -1) + 1) / 18) ELSE 0 END
LIMIT 100;

-- The movements that were forgotten are in the base; those that are kept go on from its number.

-- name: proof_journal
WITH counted AS (
    SELECT j.sku_id, count(*) AS movements, max(j.sku_seq) AS last_seq,
           sum(CASE WHEN kind IN ('STOCK', 'RESTOCK', 'ADJUST') THEN quantity ELSE 0 END)::bigint AS total,
           sum(CASE WHEN kind = 'RESERVE' THEN quantity WHEN kind IN ('RELEASE', 'EXPIRE', 'CONFIRM') THEN -quantity
               ELSE 0 END)::bigint AS held,
           sum(CASE WHEN kind IN ('CONFIRM', 'HONOUR') THEN quantity WHEN kind = 'RETURN' THEN -quantity
               ELSE 0 END)::bigint AS sold
    FROM journal AS j LEFT JOIN journal_base AS b USING (sale_id, sku_id)
    WHERE j.sale_id = $1 AND j.sku_seq > coalesce(b.sku_seq, 0) GROUP BY j.sku_id),
summed AS (
    SELECT s.sku_id, coalesce(b.sku_seq, 0) + coalesce(c.movements, 0) AS movements,
           coalesce(c.last_seq, b.sku_seq) AS last_seq, coalesce(b.total, 0) + coalesce(c.total, 0) AS total,
           coalesce(b.held, 0) + coalesce(c.held, 0) AS held, coalesce(b.sold, 0) + coalesce(c.sold, 0) AS sold
    FROM stock AS s LEFT JOIN counted AS c USING (sku_id) LEFT JOIN journal_base AS b USING (sale_id, sku_id)
    WHERE s.sale_id = $1)
SELECT format('%s: counters say %s total, %s held, %s sold after movement %s; the journal sums to %s, %s, %s in %s of %s',
              s.sku_id, s.total, s.held, s.sold, s.sku_seq, j.total, j.held, j.sold, j.movements, j.last_seq)
FROM stock AS s LEFT JOIN summed AS j USING (sku_id)
WHERE s.sale_id = $1
  AND (s.total, s.held, s.sold, s.sku_seq, s.sku_seq)
      IS DISTINCT FROM (j.total, j.held, j.sold, j.last_seq, j.movements);
