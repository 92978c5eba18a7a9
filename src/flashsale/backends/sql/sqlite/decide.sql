-- What a transaction of the ledger reads and writes. Lists to look up come in as one JSON array and are taken
-- apart by json_each; CROSS JOIN keeps the planner from scanning the big table. Rows to write are bound many at
-- a time (write.py). Either way a batch is a few statements, and the interpreter lock is given up as often.

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: take_over
UPDATE payment SET due_at_ms = 0 WHERE due IS NOT NULL;

-- name: probe
UPDATE shard SET created_at_ms = created_at_ms;

-- Loading.

-- name: sales
SELECT terms FROM sale ORDER BY created_at_ms, sale_id;

-- name: stock
SELECT s.sale_id, s.sku_id, s.total, s.held, s.sold, s.sku_seq
FROM json_each(?1) AS a -- [sale_id, sku_id]
CROSS JOIN stock AS s ON s.sale_id = a.value ->> 0 AND s.sku_id = a.value ->> 1;

-- name: stock_of_sale
SELECT sale_id, sku_id, total, held, sold, sku_seq FROM stock WHERE ?1 IS NULL OR sale_id = ?1 ORDER BY sku_id, sale_id;

-- Of users: ?1 is a JSON array of [place, user_id, sale_id].

-- name: claims
SELECT r.user_id, r.sale_id, r.sku_id, sum(r.quantity)
FROM json_each(?1) AS a
CROSS JOIN by_user AS b ON b.level IN (0, 1, 2) AND b.place = a.value ->> 0
CROSS JOIN reservation AS r ON r.seq = b.seq AND r.user_id = a.value ->> 1 AND r.sale_id = a.value ->> 2
WHERE r.status IN ('RESERVED', 'CONFIRMED')
GROUP BY 1, 2, 3;

-- name: lapsed_ids_of_users
SELECT r.reservation_id
FROM json_each(?1) AS a
CROSS JOIN by_user AS b ON b.level IN (0, 1, 2) AND b.place = a.value ->> 0
CROSS JOIN reservation AS r ON r.seq = b.seq AND r.user_id = a.value ->> 1 AND r.sale_id = a.value ->> 2
WHERE r.status = 'RESERVED' AND r.expires_at_ms <= ?2;

-- Of requests: ?1 is a JSON array of [place of the user, place of the request, user_id, sale_id, request_key].

-- name: requests
SELECT r.reservation_id, r.user_id, r.sale_id, r.sku_id, r.quantity, r.status, r.unit_price_minor, r.currency,
       r.created_at_ms, r.expires_at_ms, r.request_kind, r.request_key, r.order_id, r.returned_quantity,
       r.refusal, r.redrive_of, r.origin
FROM json_each(?1) AS a
CROSS JOIN by_user AS b ON b.level IN (0, 1, 2) AND b.place IN (a.value ->> 0, a.value ->> 1)
CROSS JOIN reservation AS r
    ON r.seq = b.seq AND r.user_id = a.value ->> 2 AND r.sale_id = a.value ->> 3 AND r.request_key = a.value ->> 4;

-- Of places: ?1 is a JSON array of [sale_id, mark].

-- name: origins
SELECT o.sale_id, o.mark, sum(o.quantity)
FROM json_each(?1) AS a
CROSS JOIN origin AS o ON o.sale_id = a.value ->> 0 AND o.mark = a.value ->> 1
GROUP BY 1, 2;

-- name: lapsed_ids
SELECT reservation_id FROM reservation WHERE status = 'RESERVED' AND expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2;

-- name: something_lapsed
SELECT 1 FROM reservation WHERE status = 'RESERVED' AND expires_at_ms <= ?1 LIMIT 1;

-- name: next_expiry
SELECT min(expires_at_ms) FROM reservation WHERE status = 'RESERVED';

-- name: reservations
SELECT r.reservation_id, r.user_id, r.sale_id, r.sku_id, r.quantity, r.status, r.unit_price_minor, r.currency,
       r.created_at_ms, r.expires_at_ms, r.request_kind, r.request_key, r.order_id, r.returned_quantity,
       r.refusal, r.redrive_of, r.origin
FROM json_each(?1) AS a
CROSS JOIN reservation AS r ON r.reservation_id = a.value;

-- Passes of a sale that are spent: ?2 is a JSON array of numbers. To take pairs of sale and number apart costs four times
-- as much, and a batch is mostly of one sale.

-- name: spent_passes
SELECT p.sale_id, p.number
FROM json_each(?2) AS a
CROSS JOIN spent_pass AS p ON p.sale_id = ?1 AND p.number = a.value;

-- name: orders
SELECT o.order_id, o.user_id, o.sale_id, o.status, o.currency, o.lines, o.payment_method, o.shipping_address,
       o.created_at_ms, o.sequence, o.reason, o.transaction_id
FROM json_each(?1) AS a
CROSS JOIN orders AS o ON o.order_id = a.value;

-- name: payments_of_orders
SELECT p.payment_id, p.order_id, p.provider, p.transaction_id, p.amount_minor, p.currency, p.status, p.due, p.due_at_ms,
       p.tries, p.failure, p.reason, p.created_at_ms
FROM json_each(?1) AS a
CROSS JOIN payment AS p ON p.order_id = a.value;

-- name: payment_claims
SELECT payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
       tries, failure, reason, created_at_ms
FROM payment WHERE provider = ?1 AND transaction_id = ?2 AND (status <> 1 OR due IS NOT NULL);

-- name: refunds_of_orders
SELECT f.refund_id, f.order_id, f.payment_id, f.amount_minor, f.reason, f.done, f.due_at_ms, f.created_at_ms
FROM json_each(?1) AS a
CROSS JOIN refund AS f ON f.order_id = a.value;

-- name: order_of_payment
SELECT order_id FROM payment WHERE payment_id = ?1;

-- name: order_of_refund
SELECT order_id FROM refund WHERE refund_id = ?1;

-- name: has_orders
SELECT EXISTS (SELECT 1 FROM orders WHERE sale_id = ?1);

-- name: was_used
SELECT EXISTS (SELECT 1 FROM journal WHERE sale_id = ?1 AND reservation_id IS NOT NULL)
    OR EXISTS (SELECT 1 FROM journal_base WHERE sale_id = ?1 AND reservations > 0)
    OR EXISTS (SELECT 1 FROM room WHERE sale_id = ?1 AND arrivals > 0);

-- name: has_line
SELECT EXISTS (SELECT 1 FROM room WHERE sale_id = ?1 AND (phase <> 'OPEN' OR arrivals > entrants));

-- name: last_seq
SELECT max((SELECT coalesce(max(sku_seq), 0) FROM journal WHERE sale_id = ?1 AND sku_id = ?2),
           (SELECT coalesce(max(sku_seq), 0) FROM journal_base WHERE sale_id = ?1 AND sku_id = ?2));

-- Storing. The values of a row are the fields of the struct in core/, in its order. OR ROLLBACK, because a row that
-- is refused ends the transaction anyway, and the default (undo this statement only) would have SQLite copy every
-- page before it changes it: measured, 13 writes a reservation instead of 3.

-- name: new_reservations
INSERT OR ROLLBACK INTO reservation (seq, reservation_id, user_id, sale_id, sku_id, quantity, status, unit_price_minor, currency,
    created_at_ms, expires_at_ms, request_kind, request_key, order_id, returned_quantity, refusal, redrive_of, origin)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: last_reservation
SELECT coalesce(max(seq), 0) FROM reservation;

-- name: spend_passes
INSERT OR ROLLBACK INTO spent_pass (sale_id, number, reservation_id) VALUES (?, ?, ?);

-- name: changed_reservation
UPDATE reservation SET status = ?3, order_id = ?4, returned_quantity = ?5 WHERE reservation_id = ?1 AND status = ?2
RETURNING seq;

-- name: new_origins
INSERT OR ROLLBACK INTO origin (sale_id, mark, reservation_id, quantity) VALUES (?, ?, ?, ?);

-- name: gone_origins
DELETE FROM origin WHERE sale_id = ?1 AND mark = ?2 AND reservation_id = ?3;

-- name: journal
INSERT OR ROLLBACK INTO journal (seq, sale_id, sku_id, sku_seq, kind, quantity, total_after, held_after, sold_after,
    reservation_id, actor, reason, at_ms, trace_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: outbox
INSERT OR ROLLBACK INTO outbox (seq, topic, type, subject, sequence, at_ms, body, trace_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- Journal and outbox are numbered together, and no number is given again.

-- name: last_told
SELECT max((SELECT coalesce(max(seq), 0) FROM journal), (SELECT coalesce(max(seq), 0) FROM outbox),
           (SELECT seq FROM pruned));

-- name: changed_stock
UPDATE stock SET total = ?3, held = ?4, sold = ?5, sku_seq = ?6 WHERE sale_id = ?1 AND sku_id = ?2;

-- name: opened_stock
INSERT INTO stock (sale_id, sku_id, total, held, sold, sku_seq) VALUES (?1, ?2, 0, 0, 0, 0) ON CONFLICT DO NOTHING;

-- name: order
INSERT INTO orders (order_id, user_id, sale_id, status, currency, lines, payment_method, shipping_address,
    created_at_ms, sequence, reason, transaction_id, total_minor)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, sequence = excluded.sequence, reason = excluded.reason,
    transaction_id = excluded.transaction_id
WHERE excluded.sequence > sequence;

-- name: payment
INSERT INTO payment (payment_id, order_id, provider, transaction_id, amount_minor, currency, status, due, due_at_ms,
    tries, failure, reason, created_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (payment_id) DO UPDATE SET status = excluded.status, due = excluded.due, due_at_ms = excluded.due_at_ms,
    tries = excluded.tries, failure = excluded.failure, reason = excluded.reason
WHERE excluded.status >= status;

-- name: refund
INSERT INTO refund (refund_id, order_id, payment_id, amount_minor, reason, done, due_at_ms, created_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (refund_id) DO UPDATE SET done = excluded.done, due_at_ms = excluded.due_at_ms;

-- name: put_off_payment
UPDATE payment SET due_at_ms = ?2 WHERE payment_id = ?1 AND due IS NOT NULL;

-- name: put_off_refund
UPDATE refund SET due_at_ms = ?2 WHERE refund_id = ?1 AND done = 0;

-- name: refusals
INSERT INTO refusal_count (sale_id, code, times) VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET times = times + excluded.times;

-- Sales.

-- name: put_sale
INSERT INTO sale (sale_id, terms, version, created_at_ms) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT DO UPDATE SET terms = excluded.terms, version = excluded.version;

-- name: delete_stock
DELETE FROM stock WHERE sale_id = ?1 AND (?2 IS NULL OR sku_id = ?2);

-- name: delete_sale
DELETE FROM sale WHERE sale_id = ?1;

-- name: audit
INSERT INTO audit (at_ms, actor, action, subject, details) VALUES (?1, ?2, ?3, ?4, ?5);
