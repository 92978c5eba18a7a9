-- Members of groups that were seen lately, as core/sighting.py has them. KEYS = one sorted set for each sighting, all of
-- one hash slot; ARGV[1] = a msgpack array of core.sighting.Sighting. A group that nobody sees any more is forgotten by
-- its expiry.

local MEMBERS_MAX = 64

local function clock_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local now = clock_ms()

local function sighted(key, member, window_ms, how)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window_ms)
  if how > 0 then
    redis.call('ZADD', key, now, member)
    redis.call('ZREMRANGEBYRANK', key, 0, -MEMBERS_MAX - 1)
    redis.call('PEXPIRE', key, window_ms)
  elseif how < 0 then
    redis.call('ZREM', key, member)
  end
  return redis.call('ZCARD', key)
end

local counts = {}
for place, sighting in ipairs(cmsgpack.unpack(ARGV[1])) do
  counts[place] = sighted(KEYS[place], sighting[2], sighting[3] * 1000, sighting[4])
end
return cmsgpack.pack(counts)
