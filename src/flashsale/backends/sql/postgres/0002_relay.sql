-- Events go out: whoever publishes them has a lease and a cursor.

-- A relay reads journal and outbox as one, in the order of their numbers: from here on the order events of a
-- transaction are numbered behind its movements. Nobody has read them yet: those that are there already are put behind
-- all movements that their transaction can have.
UPDATE outbox SET seq = seq + (1 << 19);

-- One row for each relay. `cursor` is the number of the last row that it has passed on.
CREATE TABLE relay (
    relay    text COLLATE "C" PRIMARY KEY,
    owner    text NOT NULL,
    until_ms bigint NOT NULL,
    cursor   bigint NOT NULL CHECK (cursor >= 0)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
