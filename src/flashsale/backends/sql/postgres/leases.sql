-- Leases and their cursors. The table is named for its first use, the relay to a broker.

-- Nothing comes back while another owner's lease runs, and then nothing is written either: whoever only asks takes no
-- lock and no transaction id.

-- name: lease
INSERT INTO relay AS r (relay, owner, until_ms, cursor)
SELECT $1::text, $2::text, $4::bigint, 0
WHERE NOT EXISTS (SELECT 1 FROM relay WHERE relay = $1 AND owner <> $2 AND until_ms > $3)
ON CONFLICT (relay) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms
WHERE r.owner = excluded.owner OR r.until_ms <= $3
RETURNING cursor;

-- name: advance
UPDATE relay SET cursor = $3 WHERE relay = $1 AND owner = $2 AND cursor <= $3 RETURNING 1;
