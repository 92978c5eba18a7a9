-- The book of limits: what operators have set, by versions, and the processes that go by it.

-- name: state
SELECT version, tiers, forgotten FROM limits;

-- name: put_state
UPDATE limits SET version = $1, tiers = $2, forgotten = $3;

-- name: thresholds
SELECT name, value FROM threshold;

-- name: put_threshold
INSERT INTO threshold VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: drop_threshold
DELETE FROM threshold WHERE name = $1;

-- name: tier
SELECT tier FROM user_tier WHERE user_id = $1;

-- name: put_tier
INSERT INTO user_tier VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET tier = excluded.tier, version = excluded.version;

-- name: changed_users
SELECT user_id, tier FROM user_tier WHERE version > $1;

-- name: all_users
SELECT user_id, tier FROM user_tier WHERE tier IS NOT NULL;

-- name: forget_users
WITH gone AS (DELETE FROM user_tier WHERE tier IS NULL AND version <= $1 RETURNING 1) SELECT count(*) FROM gone;

-- A process says that it lives ($1) and which version it has ($2); how many others were seen in the last $3
-- milliseconds, and how many of these have an older one.

-- name: present
WITH clock AS (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms),
     beat AS (
         INSERT INTO process SELECT $1, $2, now_ms FROM clock
         ON CONFLICT (process_id) DO UPDATE SET version = excluded.version, seen_at_ms = excluded.seen_at_ms
     )
SELECT count(*), count(*) FILTER (WHERE process.version < $2) FROM process, clock
WHERE process_id <> $1 AND seen_at_ms > now_ms - $3;

-- name: leave
DELETE FROM process WHERE process_id = $1;

-- name: bury
DELETE FROM process WHERE seen_at_ms < floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 3600000;
