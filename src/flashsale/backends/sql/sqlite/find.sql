-- The questions of ports.py. Every list is bounded.

-- name: active_reservations
SELECT reservation_id, user_id, sale_id, sku_id, quantity, status, unit_price_minor, currency,
       created_at_ms, expires_at_ms, request_kind, request_key, order_id, returned_quantity
FROM reservation WHERE user_id = ?1 AND status = 'RESERVED' AND expires_at_ms > ?2 ORDER BY seq DESC LIMIT 200;

-- name: order_of_reservation
SELECT order_id FROM reservation WHERE reservation_id = ?1;

-- name: orders_of_user
SELECT order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
       created_at_ms, sequence, reason, transaction_id
FROM orders WHERE user_id = ?1 ORDER BY order_id DESC LIMIT 200;

-- name: journal_page
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after,
       sold_after, reservation_id, actor, reason, at_ms
FROM journal WHERE sale_id = ?1 AND (?2 IS NULL OR sku_id = ?2) AND seq > ?3 ORDER BY seq LIMIT ?4;

-- name: journal_page_of_sku
SELECT seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after,
       sold_after, reservation_id, actor, reason, at_ms
FROM journal INDEXED BY journal_sku_seq
WHERE sale_id = ?1 AND sku_id = ?2
  AND sku_seq > coalesce((SELECT j.sku_seq FROM journal AS j NOT INDEXED
                          WHERE j.seq <= ?3 AND j.sale_id = ?1 AND j.sku_id = ?2 ORDER BY j.seq DESC LIMIT 1), 0)
ORDER BY sku_seq LIMIT ?4;

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

-- name: proof_journal
SELECT printf('%s: counters say %d total, %d held, %d sold, %d movements; the journal''s last row %s, %s, %s, %s',
              s.sku_id, s.total, s.held, s.sold, s.sku_seq, j.total_after, j.held_after, j.sold_after, j.sku_seq)
FROM stock AS s LEFT JOIN journal AS j ON j.sale_id = s.sale_id AND j.sku_id = s.sku_id AND j.sku_seq =
    (SELECT max(k.sku_seq) FROM journal AS k WHERE k.sale_id = s.sale_id AND k.sku_id = s.sku_id)
WHERE s.sale_id = ?1
  AND (s.total, s.held, s.sold, s.sku_seq) IS NOT (j.total_after, j.held_after, j.sold_after, j.sku_seq);
