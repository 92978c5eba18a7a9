-- Signs of life of those who wait, as core/signs.py has them. KEYS = of one room: its times (a hash), who is back (a
-- sorted set: numbers by their places); ARGV[1] = the operation, ARGV[2] = a msgpack array of its arguments. The
-- windows' keys are made here, of the same hash tag. Everything is forgotten by its expiry when nobody tells any more.

local PAUSE_MS = 10000
local NUMBER_MAX = 134217728
local BACK_MAX = 10000

local times, back = KEYS[1], KEYS[2]

local function clock_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local now = clock_ms()

local function number_of(text)
  return tonumber(text) or now
end

local function since_and_last()
  local found = redis.call('HMGET', times, 'since', 'last')
  return number_of(found[1]), number_of(found[2])
end

local function window_key(window)
  return times .. ':' .. string.format('%.0f', window)
end

local function went_on(last)
  return now >= last and now - last <= PAUSE_MS
end

local operations = {}

function operations.tell(numbers, returned, grace)
  local since, last = since_and_last()
  if not went_on(last) then since = now end
  redis.call('HSET', times, 'since', string.format('%.0f', since), 'last', string.format('%.0f', now))
  local key, told = window_key(math.floor(now / grace)), false
  for _, number in ipairs(numbers) do
    if number > 0 and number < NUMBER_MAX then
      redis.call('SETBIT', key, number, 1)
      told = true
    end
  end
  if told then redis.call('PEXPIRE', key, 2 * grace + PAUSE_MS) end
  for _, each in ipairs(returned) do
    if redis.call('ZCARD', back) < BACK_MAX then redis.call('ZADD', back, each[1], each[2]) end
  end
  for _, key_of_all in ipairs(KEYS) do redis.call('PEXPIRE', key_of_all, 2 * grace + PAUSE_MS) end
  return 1
end

function operations.ask(numbers, done, most, grace)
  for _, number in ipairs(done) do redis.call('ZREM', back, number) end
  local since, last = since_and_last()
  local known = now - since >= grace and went_on(last)
  local window = math.floor(now / grace)
  local newer, older = window_key(window), window_key(window - 1)
  local alive = {}
  for place, number in ipairs(numbers) do
    alive[place] = not known or number >= NUMBER_MAX or redis.call('GETBIT', newer, number) == 1
      or redis.call('GETBIT', older, number) == 1
  end
  local returned = {}
  if most > 0 then
    for place, number in ipairs(redis.call('ZRANGE', back, 0, most - 1)) do returned[place] = tonumber(number) end
  end
  return cmsgpack.pack({alive, returned})
end

return operations[ARGV[1]](unpack(cmsgpack.unpack(ARGV[2])))
