-- A reservation carries its request's key itself: what keeps two processes from granting one request twice is the unique
-- index on it. They may work on two different products at once, so no lock on stock would. The rows of one request are
-- numbered from 0: two grants of a key collide there, whatever their products.
ALTER TABLE reservation ADD COLUMN request_line smallint;
UPDATE reservation AS r SET request_line = n.line - 1
FROM request AS q CROSS JOIN LATERAL unnest(q.reservation_ids) WITH ORDINALITY AS n(reservation_id, line)
WHERE r.reservation_id = n.reservation_id;
CREATE UNIQUE INDEX reservation_request ON reservation (user_id, sale_id, request_key, request_line)
    WHERE request_key IS NOT NULL;
DROP TABLE request;
