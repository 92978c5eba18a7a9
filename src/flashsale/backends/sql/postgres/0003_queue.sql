-- Queued sales: the ledger's own queue (where there is no broker, and where a paused sale's requests wait), dead
-- letters, and the secret that ids are sealed with.

CREATE TABLE secret (
    name  text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL CHECK (length(value) = 32)
);
INSERT INTO secret VALUES ('ids', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- What waits. `place` is the order of arrival. A request that is appended twice waits once, by its name.
-- Rows come and go quickly.
CREATE TABLE queue (
    place    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text COLLATE "C" NOT NULL UNIQUE,
    sale_id  text COLLATE "C" NOT NULL,
    sku_id   text COLLATE "C" NOT NULL,
    priority text COLLATE "C" NOT NULL,
    message  bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX queue_head ON queue (priority, place);

CREATE TABLE dead_letter (
    letter_id       text COLLATE "C" PRIMARY KEY,
    at_ms           bigint NOT NULL,
    topic           text NOT NULL,
    partition       integer NOT NULL,
    "offset"        bigint NOT NULL,
    message         bytea NOT NULL,
    error           text NOT NULL,
    tries           integer NOT NULL,
    reservation_ids text[] NOT NULL,
    redriven_as     text[] NOT NULL,
    redriven_at_ms  bigint
);
CREATE INDEX dead_letter_waiting ON dead_letter (letter_id) WHERE redriven_at_ms IS NULL;
