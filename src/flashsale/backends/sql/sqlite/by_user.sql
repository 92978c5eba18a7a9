-- The entries by user (by_user.py). The levels are named in each look-up, so that it is a seek in each of them.

-- name: known
SELECT DISTINCT b.place
FROM json_each(?1) AS a
CROSS JOIN by_user AS b ON b.level IN (0, 1, 2) AND b.place = a.value;

-- name: size
SELECT count(*) FROM by_user WHERE level = ?1;

-- name: add
INSERT OR IGNORE INTO by_user (level, place, seq) VALUES (?, ?, ?);

-- name: remove
DELETE FROM by_user WHERE level IN (0, 1, 2) AND place = ?1 AND seq = ?2 RETURNING level;

-- name: sink
INSERT OR IGNORE INTO by_user (level, place, seq)
SELECT level + 1, place, seq FROM by_user WHERE level = ?1 AND place BETWEEN ?2 AND ?3 ORDER BY place, seq;

-- name: sunk
DELETE FROM by_user WHERE level = ?1 AND place BETWEEN ?2 AND ?3;
