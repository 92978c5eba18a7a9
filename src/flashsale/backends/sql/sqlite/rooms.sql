-- Waiting rooms. Numbers to look up come in as one JSON array.

-- name: room
SELECT sale_id, seed, arrivals, entrants, phase, root, head, full_at_us, sold_out, pace FROM room WHERE sale_id = ?1;

-- name: rooms
SELECT sale_id, seed, arrivals, entrants, phase, root, head, full_at_us, sold_out, pace
FROM room WHERE sale_id IN (SELECT value FROM json_each(?1)) ORDER BY sale_id;

-- name: open_room
INSERT INTO room (sale_id, seed, arrivals, entrants, phase, head, full_at_us, sold_out)
VALUES (?1, ?2, 0, 0, 'OPEN', 0, 0, 0) ON CONFLICT DO NOTHING;

-- name: put_room
UPDATE room SET arrivals = ?2, entrants = ?3, phase = ?4, root = ?5, head = ?6, full_at_us = ?7, sold_out = ?8,
    pace = ?9
WHERE sale_id = ?1;

-- The newest ticket of a user. Without the index's name the planner goes through all tickets from the newest on, because
-- they come in the order that is asked for: measured, 152 joins a second at 100,000 tickets.

-- name: ticket_of_user
SELECT t.sale_id, t.number, t.user_id, t.at_ms, t.told_ms, t.pass_until_ms, t.has_left, p.number IS NOT NULL
FROM ticket AS t INDEXED BY ticket_user LEFT JOIN spent_pass AS p ON p.sale_id = t.sale_id AND p.number = t.number
WHERE t.sale_id = ?1 AND t.user_id = ?2 ORDER BY t.number DESC LIMIT 1;

-- name: tickets
SELECT t.sale_id, t.number, t.user_id, t.at_ms, t.told_ms, t.pass_until_ms, t.has_left, p.number IS NOT NULL
FROM json_each(?2) AS a
CROSS JOIN ticket AS t ON t.sale_id = ?1 AND t.number = a.value
LEFT JOIN spent_pass AS p ON p.sale_id = t.sale_id AND p.number = t.number;

-- name: new_ticket
INSERT OR ROLLBACK INTO ticket (sale_id, number, user_id, at_ms, told_ms) VALUES (?, ?, ?, ?, ?);

-- name: let_in
UPDATE ticket SET pass_until_ms = ?3 WHERE sale_id = ?1 AND number = ?2 AND pass_until_ms IS NULL AND has_left = 0
RETURNING number;

-- name: left
UPDATE ticket SET has_left = 1 WHERE sale_id = ?1 AND number = ?2;

-- name: come_back
UPDATE ticket SET has_left = 0 WHERE sale_id = ?1 AND number = ?2;

-- Who leaves gives his pass up, too.

-- name: give_pass_up
INSERT INTO spent_pass (sale_id, number, reservation_id)
SELECT sale_id, number, '' FROM ticket WHERE sale_id = ?1 AND number = ?2 AND pass_until_ms IS NOT NULL
ON CONFLICT DO NOTHING;

-- What counts when somebody is to be let in. Reservations of all sales are gone through, so only where there is a
-- `max_active` that they count for.

-- name: figures
SELECT (SELECT coalesce(sum(total - held - sold), 0) FROM stock WHERE sale_id = ?1),
       CASE WHEN ?3 THEN (SELECT count(*) FROM reservation
            WHERE status = 'RESERVED' AND expires_at_ms > ?2 AND sale_id = ?1) ELSE 0 END,
       (SELECT count(*) FROM ticket AS t WHERE t.sale_id = ?1 AND t.pass_until_ms > ?2
            AND NOT EXISTS (SELECT 1 FROM spent_pass AS p WHERE p.sale_id = t.sale_id AND p.number = t.number));

-- name: entrants
SELECT number, user_id FROM ticket WHERE sale_id = ?1 AND number > ?2 ORDER BY number LIMIT ?3;

-- name: put_part
INSERT INTO draw_part (sale_id, part, numbers) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING;

-- name: parts
SELECT numbers FROM draw_part WHERE sale_id = ?1 ORDER BY part;

-- A sale that is deleted leaves no ticket behind. Its room stays if it gave out any, so that nobody gives the id to
-- another sale, for which these tickets and passes would be good.

-- name: delete_room
DELETE FROM room WHERE sale_id = ?1 AND arrivals = 0;

-- name: delete_tickets
DELETE FROM ticket WHERE sale_id = ?1;

-- name: delete_passes
DELETE FROM spent_pass WHERE sale_id = ?1;

-- name: delete_parts
DELETE FROM draw_part WHERE sale_id = ?1;
