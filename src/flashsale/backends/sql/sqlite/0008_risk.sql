-- Where reservations come from, in sales that limit units per device or address: marks of core/origin.py.

ALTER TABLE reservation ADD COLUMN origin TEXT;

-- What is held or bought, by mark. A row lives as long as its reservation counts, so that a mark has no more rows than
-- its limit has units.
CREATE TABLE origin (
    sale_id        TEXT NOT NULL,
    mark           TEXT NOT NULL,
    reservation_id TEXT NOT NULL,
    quantity       INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (sale_id, mark, reservation_id)
) STRICT, WITHOUT ROWID;

-- What risk has decided of whom, and why: challenges, blocks, and passes that had a score.
CREATE TABLE risk_decision (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at_ms   INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    sale_id TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('PASS', 'CHALLENGE', 'BLOCK')),
    score   INTEGER NOT NULL,
    reasons TEXT NOT NULL CHECK (json_valid(reasons)),
    facts   TEXT NOT NULL CHECK (json_valid(facts)),
    solved  INTEGER NOT NULL CHECK (solved IN (0, 1)),
    times   INTEGER NOT NULL CHECK (times > 0)
) STRICT;
CREATE INDEX risk_decision_user ON risk_decision (user_id, seq);
CREATE INDEX risk_decision_at ON risk_decision (at_ms);
