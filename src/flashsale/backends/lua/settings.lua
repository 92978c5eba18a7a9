-- Settings shared by all processes. KEYS[1] = a hash: name -> "version:value"; ARGV[1] = the version of these changes,
-- ARGV[2] = a msgpack array of {name, value}, ARGV[3] = how many names there may be. Each name has the version that set
-- it, so that changes may arrive twice and in any order. Answers all names that are there, or {'TOO MANY'} and no
-- change when there would be.

local version, changes = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local new = {}
for _, change in ipairs(changes) do
  if redis.call('HEXISTS', KEYS[1], change[1]) == 0 then new[#new + 1] = change[1] end
end
if redis.call('HLEN', KEYS[1]) + #new > tonumber(ARGV[3]) then
  return {'TOO MANY'}
end
-- Below this line nothing can fail.
for _, change in ipairs(changes) do
  local known = redis.call('HGET', KEYS[1], change[1])
  if not known or tonumber(string.match(known, '^%d+')) <= version then
    redis.call('HSET', KEYS[1], change[1], string.format('%.0f', version) .. ':' .. change[2])
  end
end
return redis.call('HGETALL', KEYS[1])
