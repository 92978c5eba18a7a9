-- The log of risk decisions: written in batches, forgotten by number and age.

-- name: note
INSERT INTO risk_decision (at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: forget_many
DELETE FROM risk_decision WHERE seq IN (
    SELECT seq FROM risk_decision WHERE seq <= (SELECT max(seq) FROM risk_decision) - ?1 ORDER BY seq LIMIT ?2);

-- name: forget_old
DELETE FROM risk_decision WHERE seq IN (SELECT seq FROM risk_decision WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2);

-- name: page
SELECT seq, at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times
FROM risk_decision WHERE seq > ?1 ORDER BY seq LIMIT ?2;

-- name: page_of_user
SELECT seq, at_ms, user_id, sale_id, verdict, score, reasons, facts, solved, times
FROM risk_decision WHERE user_id = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2;
