-- What operators have set of the thresholds of admission. A change of any of it is a new version; users keep that of
-- their last change, so that what has changed since a version is found. There is no table of processes: a file has one.

CREATE TABLE limits (
    only_row  INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    version   INTEGER NOT NULL,
    tiers     INTEGER NOT NULL CHECK (tiers >= 0), -- users who have one
    forgotten INTEGER NOT NULL -- users without a tier may be missing up to this version
) STRICT;
INSERT INTO limits VALUES (1, 0, 0, 0);

CREATE TABLE threshold (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL CHECK (json_valid(value))
) STRICT, WITHOUT ROWID;

CREATE TABLE user_tier (
    user_id TEXT NOT NULL PRIMARY KEY,
    tier    TEXT,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX user_tier_version ON user_tier (version);
