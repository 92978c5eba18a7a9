-- Forgets buckets: they are full again. KEYS = their keys, all of one hash slot.

return redis.call('DEL', unpack(KEYS))
