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

-- Sessions of ours that have sent half of a COPY and then nothing for $1 milliseconds. Their process was stopped, or its
-- machine is gone: no time-out of the server's ends them, and the locks of their products are held as long.

-- name: end_stuck
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = 'flashsale' AND state = 'active'
    AND wait_event = 'ClientRead' AND query_start < clock_timestamp() - $1::bigint * interval '1 millisecond'
    AND pid <> pg_backend_pid();
