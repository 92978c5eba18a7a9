-- Waiting rooms (core/waiting_room.py). Whatever changes a room holds its advisory lock.

CREATE TABLE room (
    sale_id    text COLLATE "C" PRIMARY KEY,
    seed       bytea NOT NULL CHECK (length(seed) = 32),
    arrivals   bigint NOT NULL CHECK (arrivals >= 0),
    entrants   bigint NOT NULL CHECK (entrants BETWEEN 0 AND arrivals),
    phase      text COLLATE "C" NOT NULL CHECK (phase IN ('OPEN', 'CLOSED', 'ROOTED', 'DRAWN')),
    root       bytea CHECK (length(root) = 32),
    head       bigint NOT NULL CHECK (head BETWEEN 0 AND arrivals),
    full_at_us double precision NOT NULL,
    sold_out   boolean NOT NULL,
    pace       bytea
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE ticket (
    sale_id       text COLLATE "C" NOT NULL,
    number        bigint NOT NULL CHECK (number > 0),
    user_id       text COLLATE "C" NOT NULL,
    at_ms         bigint NOT NULL,
    told_ms       bigint,
    pass_until_ms bigint,
    has_left      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (sale_id, number)
);
CREATE INDEX ticket_user ON ticket (sale_id, user_id, number);
CREATE INDEX ticket_pass ON ticket (sale_id, pass_until_ms) WHERE pass_until_ms IS NOT NULL;

-- A pass is spent in the transaction of the reservation that it bought.
CREATE TABLE spent_pass (
    sale_id        text COLLATE "C" NOT NULL,
    number         bigint NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (sale_id, number)
);

-- The outcome of a draw: the numbers of the tickets by their places, four bytes each, the lowest first.
CREATE TABLE draw_part (
    sale_id text COLLATE "C" NOT NULL,
    part    integer NOT NULL,
    numbers bytea NOT NULL,
    PRIMARY KEY (sale_id, part)
);
