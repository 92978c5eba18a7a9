-- Where reservations come from, in sales that limit units per device or address: marks of core/origin.py.

ALTER TABLE reservation ADD COLUMN origin text COLLATE "C";

-- What is held or bought, by mark. A row lives as long as its reservation counts, so that a mark has no more rows than
-- its limit has units.
CREATE TABLE origin (
    sale_id        text COLLATE "C" NOT NULL,
    mark           text COLLATE "C" NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (sale_id, mark, reservation_id)
);

-- What risk has decided of whom, and why: challenges, blocks, and passes that had a score.
CREATE TABLE risk_decision (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms   bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    sale_id text COLLATE "C" NOT NULL,
    verdict text COLLATE "C" NOT NULL CHECK (verdict IN ('PASS', 'CHALLENGE', 'BLOCK')),
    score   bigint NOT NULL,
    reasons jsonb NOT NULL,
    facts   jsonb NOT NULL,
    solved  boolean NOT NULL,
    times   bigint NOT NULL CHECK (times > 0)
);
CREATE INDEX risk_decision_user ON risk_decision (user_id, seq);
CREATE INDEX risk_decision_at ON risk_decision (at_ms);
