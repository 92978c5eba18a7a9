-- Events go out: whoever publishes them has a lease and a cursor.

-- A relay reads journal and outbox as one, in the order of their numbers: from here on both are numbered together
-- (sqlite/rows.py). Nobody has read them yet, so the order events that are there already follow the movements.
UPDATE outbox SET seq = seq + (SELECT coalesce(max(seq), 0) FROM journal);

-- One row for each relay. `cursor` is the number of the last row that it has passed on.
CREATE TABLE relay (
    relay    TEXT NOT NULL PRIMARY KEY,
    owner    TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    cursor   INTEGER NOT NULL CHECK (cursor >= 0)
) STRICT, WITHOUT ROWID;
