-- Queued sales on one machine: the ledger's own queue, dead letters, and the secret that ids are sealed with.

CREATE TABLE secret (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL CHECK (length(value) = 32)
) STRICT, WITHOUT ROWID;
INSERT INTO secret VALUES ('ids', randomblob(32));

-- What waits. `place` is the order of arrival. A request that is appended twice waits once, by its name.
CREATE TABLE queue (
    place    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name     TEXT NOT NULL UNIQUE,
    sale_id  TEXT NOT NULL,
    sku_id   TEXT NOT NULL,
    priority TEXT NOT NULL,
    message  BLOB NOT NULL
) STRICT;
CREATE INDEX queue_head ON queue (priority, place);

CREATE TABLE dead_letter (
    letter_id       TEXT NOT NULL PRIMARY KEY,
    at_ms           INTEGER NOT NULL,
    topic           TEXT NOT NULL,
    partition       INTEGER NOT NULL,
    "offset"        INTEGER NOT NULL,
    message         BLOB NOT NULL,
    error           TEXT NOT NULL,
    tries           INTEGER NOT NULL,
    reservation_ids TEXT NOT NULL CHECK (json_valid(reservation_ids)),
    redriven_as     TEXT NOT NULL CHECK (json_valid(redriven_as)),
    redriven_at_ms  INTEGER
) STRICT;
CREATE INDEX dead_letter_waiting ON dead_letter (letter_id) WHERE redriven_at_ms IS NULL;
