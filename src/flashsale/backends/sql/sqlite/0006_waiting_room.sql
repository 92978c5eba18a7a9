-- Waiting rooms (core/waiting_room.py).

CREATE TABLE room (
    sale_id    TEXT NOT NULL PRIMARY KEY,
    seed       BLOB NOT NULL CHECK (length(seed) = 32),
    arrivals   INTEGER NOT NULL CHECK (arrivals >= 0),
    entrants   INTEGER NOT NULL CHECK (entrants BETWEEN 0 AND arrivals),
    phase      TEXT NOT NULL CHECK (phase IN ('OPEN', 'CLOSED', 'ROOTED', 'DRAWN')),
    root       BLOB CHECK (length(root) = 32),
    head       INTEGER NOT NULL CHECK (head BETWEEN 0 AND arrivals),
    full_at_us REAL NOT NULL,
    sold_out   INTEGER NOT NULL CHECK (sold_out IN (0, 1)),
    pace       BLOB
) STRICT, WITHOUT ROWID;

-- Numbers rise, so tickets are appended; those of one user are found by the index.
CREATE TABLE ticket (
    sale_id       TEXT NOT NULL,
    number        INTEGER NOT NULL CHECK (number > 0),
    user_id       TEXT NOT NULL,
    at_ms         INTEGER NOT NULL,
    told_ms       INTEGER,
    pass_until_ms INTEGER,
    has_left      INTEGER NOT NULL DEFAULT 0 CHECK (has_left IN (0, 1)),
    PRIMARY KEY (sale_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX ticket_user ON ticket (sale_id, user_id, number);
CREATE INDEX ticket_pass ON ticket (sale_id, pass_until_ms) WHERE pass_until_ms IS NOT NULL;

-- A pass is spent in the transaction of the reservation that it bought.
CREATE TABLE spent_pass (
    sale_id        TEXT NOT NULL,
    number         INTEGER NOT NULL,
    reservation_id TEXT NOT NULL,
    PRIMARY KEY (sale_id, number)
) STRICT, WITHOUT ROWID;

-- The outcome of a draw: the numbers of the tickets by their places, four bytes each, the lowest first.
CREATE TABLE draw_part (
    sale_id TEXT NOT NULL,
    part    INTEGER NOT NULL,
    numbers BLOB NOT NULL,
    PRIMARY KEY (sale_id, part)
) STRICT, WITHOUT ROWID;
