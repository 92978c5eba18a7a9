-- The log of risk decisions: written in batches, forgotten by number and age.

-- Whoever writes waits for those before him, so that numbers rise in the order of commits and no page leaves one out.

-- name: turn
SELECT pg_advisory_xact_lock(hashtextextended('flashsale risk decisions', 0));

-- name: note
INSERT INTO risk_decision (at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times)
SELECT n.at_ms, n.user_id, n.sale_id, n.verdict, n.score, n.reasons, n.facts, n.solved, n.times
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::jsonb[], $7::jsonb[], $8::boolean[],
            $9::bigint[]) WITH ORDINALITY
    AS n(at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times, place)
ORDER BY n.place;

-- name: forget_many
DELETE FROM risk_decision WHERE seq IN (
    SELECT seq FROM risk_decision WHERE seq <= (SELECT max(seq) FROM risk_decision) - $1 ORDER BY seq LIMIT $2);

-- name: forget_old
DELETE FROM risk_decision WHERE seq IN (SELECT seq FROM risk_decision WHERE at_ms < $1 ORDER BY at_ms LIMIT $2);

-- name: page
SELECT seq, at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times
FROM risk_decision WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: page_of_user
SELECT seq, at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times
FROM risk_decision WHERE user_id = $3 AND seq > $1 ORDER BY seq LIMIT $2;
