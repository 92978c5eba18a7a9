-- Rate limits, as core/rate_limit.py has them. KEYS = one bucket for each draft, all of one hash slot; ARGV[1] = a
-- msgpack array of core.rate_limit.Draft; ARGV[2] = a msgpack array of how many of them belong together: of these all
-- are taken or none. A bucket that is full again is forgotten by its expiry.

local ORIGIN_S = 1700000000
local TOLERANCE_US = 1000
local EXTRA_MS = 1000 -- the key outlives its use, so that its expiry decides nothing

local function clock_us()
  local now = redis.call('TIME')
  return (now[1] - ORIGIN_S) * 1000000 + now[2]
end

local now = clock_us()

local function weigh(key, rate, burst, cost)
  local interval = 1000000 / rate
  local whole = burst * interval
  local room = whole + math.min(TOLERANCE_US, interval / 2)
  local full_at = tonumber(redis.call('GET', key)) or 0
  local before = math.min(math.max(full_at - now, 0), room)
  local after = before + cost * interval
  return {allowed = after <= room, before = before, after = after, interval = interval, whole = whole, room = room,
          burst = burst, owes_too_much = full_at - now > room}
end

local function settle(key, weighed, taken)
  local owed = taken and weighed.after or weighed.before
  local remaining = math.min(math.max(math.floor((weighed.room - owed) / weighed.interval), 0), weighed.burst)
  local wait = math.min(weighed.after - weighed.whole, weighed.whole)
  local reset_ms = math.ceil(owed / 1000)
  if taken or weighed.owes_too_much then -- its rate was lower before, or the clock was set back
    redis.call('SET', key, string.format('%.17g', now + owed), 'PX', string.format('%.0f', reset_ms + EXTRA_MS))
  end
  return {weighed.allowed, remaining, weighed.allowed and 0 or math.ceil(wait / 1000), reset_ms}
end

local drafts = cmsgpack.unpack(ARGV[1])
local answers = {}
local first = 1
for _, size in ipairs(cmsgpack.unpack(ARGV[2])) do
  local last, weighed, taken = first + size - 1, {}, true
  for place = first, last do
    local draft = drafts[place]
    weighed[place] = weigh(KEYS[place], draft[2], draft[3], draft[4])
    taken = taken and weighed[place].allowed
  end
  for place = first, last do
    answers[place] = settle(KEYS[place], weighed[place], taken)
  end
  first = last + 1
end
return cmsgpack.pack(answers)
