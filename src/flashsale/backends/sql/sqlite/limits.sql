-- The book of limits: what operators have set, by versions.

-- name: state
SELECT version, tiers, forgotten FROM limits;

-- name: put_state
UPDATE limits SET version = ?1, tiers = ?2, forgotten = ?3;

-- name: thresholds
SELECT name, value FROM threshold;

-- name: put_threshold
INSERT INTO threshold VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value;

-- name: drop_threshold
DELETE FROM threshold WHERE name = ?1;

-- name: tier
SELECT tier FROM user_tier WHERE user_id = ?1;

-- name: put_tier
INSERT INTO user_tier VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET tier = excluded.tier, version = excluded.version;

-- name: changed_users
SELECT user_id, tier FROM user_tier WHERE version > ?1;

-- name: all_users
SELECT user_id, tier FROM user_tier WHERE tier IS NOT NULL;

-- name: forget_users
DELETE FROM user_tier WHERE tier IS NULL AND version <= ?1;
