-- Leases and their cursors. The table is named for its first use, the relay to a broker.

-- Nothing comes back while another owner's lease runs.

-- name: lease
INSERT INTO relay (relay, owner, until_ms, cursor) VALUES (?1, ?2, ?4, 0)
ON CONFLICT (relay) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms
WHERE relay.owner = excluded.owner OR relay.until_ms <= ?3
RETURNING cursor;

-- name: advance
UPDATE relay SET cursor = ?3 WHERE relay = ?1 AND owner = ?2 AND cursor <= ?3 RETURNING 1;

-- name: take_over
UPDATE relay SET until_ms = 0;
