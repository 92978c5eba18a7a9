-- Waiting rooms. LATERAL with OFFSET 0 holds the order of a join, as in decide.sql.

-- name: lock_room
SELECT pg_advisory_xact_lock(hashtextextended('room ' || $1::text, 0)), floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- name: room
SELECT sale_id, seed, arrivals, entrants, phase, root, head, full_at_us, sold_out, pace FROM room WHERE sale_id = $1;

-- With the terms of its sale, as they are now: this process may know older ones.

-- name: room_and_terms
SELECT sale_id, seed, arrivals, entrants, phase, root, head, full_at_us, sold_out, pace, sale.terms
FROM room JOIN sale USING (sale_id) WHERE sale_id = $1;

-- name: rooms
SELECT sale_id, seed, arrivals, entrants, phase, root, head, full_at_us, sold_out, pace
FROM room WHERE sale_id = ANY ($1::text[]) ORDER BY sale_id;

-- name: open_room
INSERT INTO room (sale_id, seed, arrivals, entrants, phase, head, full_at_us, sold_out)
VALUES ($1, $2, 0, 0, 'OPEN', 0, 0, false) ON CONFLICT DO NOTHING;

-- name: put_room
UPDATE room SET arrivals = $2, entrants = $3, phase = $4, root = $5, head = $6, full_at_us = $7, sold_out = $8,
    pace = $9
WHERE sale_id = $1;

-- The newest ticket of each user.

-- name: tickets_of_users
SELECT t.sale_id, t.number, t.user_id, t.at_ms, t.told_ms, t.pass_until_ms, t.has_left, t.spent
FROM unnest($2::text[]) AS a(user_id)
CROSS JOIN LATERAL (
    SELECT t.*, EXISTS (SELECT 1 FROM spent_pass AS p WHERE p.sale_id = t.sale_id AND p.number = t.number) AS spent
    FROM (SELECT * FROM ticket WHERE sale_id = $1 AND user_id = a.user_id OFFSET 0) AS t
    ORDER BY t.number DESC LIMIT 1
) AS t;

-- name: tickets
SELECT t.sale_id, t.number, t.user_id, t.at_ms, t.told_ms, t.pass_until_ms, t.has_left, t.spent
FROM unnest($2::bigint[]) AS a(number)
CROSS JOIN LATERAL (
    SELECT t.*, EXISTS (SELECT 1 FROM spent_pass AS p WHERE p.sale_id = t.sale_id AND p.number = t.number) AS spent
    FROM ticket AS t WHERE t.sale_id = $1 AND t.number = a.number OFFSET 0
) AS t;

-- name: let_in
UPDATE ticket AS t SET pass_until_ms = $3
FROM unnest($2::bigint[]) AS a(number)
WHERE t.sale_id = $1 AND t.number = a.number AND t.pass_until_ms IS NULL AND NOT t.has_left
RETURNING 1;

-- name: left
UPDATE ticket SET has_left = true WHERE sale_id = $1 AND number = $2;

-- name: come_back
UPDATE ticket SET has_left = false WHERE sale_id = $1 AND number = ANY ($2::bigint[]);

-- Who leaves gives his pass up, too.

-- name: give_pass_up
INSERT INTO spent_pass (sale_id, number, reservation_id)
SELECT sale_id, number, '' FROM ticket WHERE sale_id = $1 AND number = $2 AND pass_until_ms IS NOT NULL
ON CONFLICT DO NOTHING;

-- Of passes that reservations bring: which are spent, and which are now.

-- name: spent_passes
SELECT p.sale_id, p.number
FROM unnest($1::text[], $2::bigint[]) AS a(sale_id, number)
CROSS JOIN LATERAL (
    SELECT * FROM spent_pass AS p WHERE p.sale_id = a.sale_id AND p.number = a.number OFFSET 0
) AS p;

-- name: spend_passes
INSERT INTO spent_pass (sale_id, number, reservation_id)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) ORDER BY 1, 2;

-- What counts when somebody is to be let in. Reservations of all sales are gone through, so only where there is a
-- `max_active` that they count for.

-- name: figures
SELECT (SELECT coalesce(sum(total - held - sold), 0)::bigint FROM stock WHERE sale_id = $1),
       CASE WHEN $3::boolean THEN (SELECT count(*) FROM reservation
            WHERE status = 'RESERVED' AND expires_at_ms > $2 AND sale_id = $1) ELSE 0 END,
       (SELECT count(*) FROM ticket AS t WHERE t.sale_id = $1 AND t.pass_until_ms > $2
            AND NOT EXISTS (SELECT 1 FROM spent_pass AS p WHERE p.sale_id = t.sale_id AND p.number = t.number));

-- name: entrants
SELECT number, user_id FROM ticket WHERE sale_id = $1 AND number > $2 ORDER BY number LIMIT $3;

-- name: put_part
INSERT INTO draw_part (sale_id, part, numbers) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: parts
SELECT numbers FROM draw_part WHERE sale_id = $1 ORDER BY part;

-- A sale that is deleted leaves no ticket behind. Its room stays if it gave out any, so that nobody gives the id to
-- another sale, for which these tickets and passes would be good.

-- name: delete_room
DELETE FROM room WHERE sale_id = $1 AND arrivals = 0;

-- name: delete_tickets
DELETE FROM ticket WHERE sale_id = $1;

-- name: delete_passes
DELETE FROM spent_pass WHERE sale_id = $1;

-- name: delete_parts
DELETE FROM draw_part WHERE sale_id = $1;
