-- After a restore into another database: the numbers that are there may be higher than those that would be given now.

-- name: is_behind
SELECT greatest((SELECT max(seq) FROM journal), (SELECT max(seq) FROM outbox), (SELECT seq FROM pruned))
       >= (SELECT seq_base FROM shard) + (pg_snapshot_xmax(pg_current_snapshot())::text::bigint << 20);

-- name: catch_up
UPDATE shard SET seq_base = greatest((SELECT max(seq) FROM journal), (SELECT max(seq) FROM outbox), (SELECT seq FROM pruned));
