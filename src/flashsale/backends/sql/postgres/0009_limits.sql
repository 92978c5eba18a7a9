-- What operators have set of the thresholds of admission. A change of any of it is a new version; users keep that of
-- their last change, so that what has changed since a version is found.

CREATE TABLE limits (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   bigint NOT NULL,
    tiers     bigint NOT NULL CHECK (tiers >= 0), -- users who have one
    forgotten bigint NOT NULL -- users without a tier may be missing up to this version
);
INSERT INTO limits VALUES (true, 0, 0, 0);

CREATE TABLE threshold (
    name  text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE user_tier (
    user_id text PRIMARY KEY,
    tier    text,
    version bigint NOT NULL
);
CREATE INDEX user_tier_version ON user_tier (version);

-- Who answers buyers now, and by which version of the limits. Nobody needs it after a crash of the server.
CREATE UNLOGGED TABLE process (
    process_id text PRIMARY KEY,
    version    bigint NOT NULL,
    seen_at_ms bigint NOT NULL
);
