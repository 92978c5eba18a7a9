-- Rate limits, as core/rate_limit.py has them. KEYS = one bucket for each draft, all of one hash slot; ARGV[1] = a
-- msgpack array of core.rate_limit.Draft. A bucket that is full again is forgotten by its expiry.

local ORIGIN_S = 1700000000
local TOLERANCE_US = 1000
local EXTRA_MS = 1000 -- the key outlives its use, so that its expiry decides nothing

local function clock_us()
  local now = redis.call('TIME')
  return (now[1] - ORIGIN_S) * 1000000 + now[2]
end

local now = clock_us()

local function take(key, rate, burst, cost)
  local interval = 1000000 / rate
  local whole = burst * interval
  local room = whole + math.min(TOLERANCE_US, interval / 2)
  local full_at = tonumber(redis.call('GET', key)) or 0
  local before = math.min(math.max(full_at - now, 0), whole)
  local after = before + cost * interval
  local allowed = after <= room
  local owed = allowed and after or before
  local remaining = math.min(math.max(math.floor((room - owed) / interval), 0), burst)
  local retry_after_ms = allowed and 0 or math.ceil(math.min(after - whole, whole) / 1000)
  local reset_ms = math.ceil(owed / 1000)
  if allowed then
    redis.call('SET', key, string.format('%.17g', now + owed), 'PX', string.format('%.0f', reset_ms + EXTRA_MS))
  end
  return {allowed, remaining, retry_after_ms, reset_ms}
end

local answers = {}
for place, draft in ipairs(cmsgpack.unpack(ARGV[1])) do
  answers[place] = take(KEYS[place], draft[2], draft[3], draft[4])
end
return cmsgpack.pack(answers)
