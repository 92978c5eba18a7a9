-- The trace of the request that caused a row, if it named one.
ALTER TABLE journal ADD COLUMN trace_id TEXT;
ALTER TABLE outbox ADD COLUMN trace_id TEXT;
