-- Permits of products, as core/permits.py has them. Called with ARGV[1] = the operation, ARGV[2] = a msgpack array with
-- one entry for each product, KEYS = four keys for each product, all of one hash slot. Answers in msgpack.
--
-- The keys of a product: counter (hash: available, seq, at_ms of the last synchronisation; units outstanding; run),
-- permits (hash: reservation id -> user, quantity, fingerprint), deadlines (sorted set), users (hash: units).
--
-- `run` is the id of the server process that wrote the permits. A process that finds another one there was restarted
-- from a file, or is a replica that took over: permits that were settled meanwhile would be back, and keep their units
-- from being sold until their deadlines. So it forgets them, which costs wasted attempts at most. The same happens when
-- a key was evicted and the others were not.

local APPEND_MS, PERMIT_MS = 3000, 600000
local FRESH_MS, SHOWN_MS = 250, 1000
local LAPSED_MAX, PERMITS_MAX = 1000, 1000000
local KEPT_MS = 86400000 -- a product that nobody touches for a day is forgotten

local function clock_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local now = clock_ms()
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''

local function read(place)
  local product = {
    counter = KEYS[4 * place - 3], permits = KEYS[4 * place - 2],
    deadlines = KEYS[4 * place - 1], users = KEYS[4 * place],
  }
  local row = redis.call('HMGET', product.counter, 'available', 'seq', 'at_ms', 'units', 'run')
  product.available, product.seq, product.at_ms = tonumber(row[1]), tonumber(row[2]), tonumber(row[3])
  product.units, product.run = tonumber(row[4]) or 0, row[5]
  return product
end

local function open(product)
  product.outstanding = redis.call('HLEN', product.permits)
  local whole = product.outstanding == redis.call('ZCARD', product.deadlines)
    and (product.outstanding == 0) == (product.units == 0)
  if product.run == run and whole then return end
  redis.call('UNLINK', product.permits, product.deadlines, product.users)
  product.units, product.outstanding = 0, 0
end

local function close(product)
  redis.call('HSET', product.counter, 'units', product.units, 'run', run)
  redis.call('PEXPIRE', product.counter, KEPT_MS)
  redis.call('PEXPIRE', product.permits, KEPT_MS)
  redis.call('PEXPIRE', product.deadlines, KEPT_MS)
  redis.call('PEXPIRE', product.users, KEPT_MS)
end

local function fresh(product, limit_ms)
  return product.at_ms and now >= product.at_ms and now - product.at_ms <= limit_ms
end

local function remove(product, id)
  local packed = redis.call('HGET', product.permits, id)
  if not packed then return end
  local permit = cmsgpack.unpack(packed)
  redis.call('HDEL', product.permits, id)
  redis.call('ZREM', product.deadlines, id)
  product.outstanding = product.outstanding - 1
  product.units = product.units - permit[2]
  if redis.call('HINCRBY', product.users, permit[1], -permit[2]) <= 0 then
    redis.call('HDEL', product.users, permit[1])
  end
end

local function drop_lapsed(product)
  local lapsed = redis.call('ZRANGEBYSCORE', product.deadlines, '-inf', now, 'LIMIT', 0, LAPSED_MAX)
  for _, id in ipairs(lapsed) do remove(product, id) end
end

local function refuse(product, user, quantity, limit)
  local has = tonumber(redis.call('HGET', product.users, user)) or 0
  if has + quantity > limit then return {'LIMIT', has} end
  if not product.available or product.outstanding >= PERMITS_MAX then return {'UNSURE', 0} end
  local free = product.available - product.units
  if free < quantity then
    if fresh(product, FRESH_MS) then return {'SOLD_OUT', math.max(free, 0)} end
    return {'UNSURE', 0}
  end
end

local function decide(product, wish)
  local id, user, quantity, limit, fingerprint = wish[1], wish[2], wish[5], wish[6], wish[7]
  local earlier = redis.call('HGET', product.permits, id)
  if earlier and cmsgpack.unpack(earlier)[3] ~= fingerprint then return {'KEY_REUSED', 0} end
  if not earlier then
    local refused = refuse(product, user, quantity, limit)
    if refused then return refused end
    -- Below this line nothing can fail.
    redis.call('HSET', product.permits, id, cmsgpack.pack({user, quantity, fingerprint}))
    redis.call('HINCRBY', product.users, user, quantity)
    product.outstanding = product.outstanding + 1
    product.units = product.units + quantity
  end
  if earlier and tonumber(redis.call('ZSCORE', product.deadlines, id)) > now + APPEND_MS then return {'QUEUED', 0} end
  redis.call('ZADD', product.deadlines, 'GT', now + APPEND_MS, id)
  return {'PERMITTED', 0}
end

local OPERATIONS = {}

-- Entry: wishes, each as core.permits.Wish. When memory is short Redis refuses the first write of a script if it may
-- need memory, and no later one. So permits begin with such a write, and settling with removals, which are let through.
function OPERATIONS.permit(product, wishes)
  redis.call('HSET', product.counter, 'run', run)
  open(product)
  drop_lapsed(product)
  local permits = {}
  for place, wish in ipairs(wishes) do permits[place] = decide(product, wish) end
  close(product)
  return permits
end

-- Entry: reservation ids.
function OPERATIONS.appended(product, ids)
  open(product)
  for _, id in ipairs(ids) do redis.call('ZADD', product.deadlines, 'XX', 'GT', now + PERMIT_MS, id) end
  close(product)
  return 0
end

-- Entry: wishes. Answers for each whether its very request is in the queue.
function OPERATIONS.queued(product, wishes)
  open(product)
  local found = {}
  for place, wish in ipairs(wishes) do
    local permit = redis.call('HGET', product.permits, wish[1])
    local deadline = tonumber(redis.call('ZSCORE', product.deadlines, wish[1]) or 0)
    found[place] = permit ~= false and cmsgpack.unpack(permit)[3] == wish[7] and deadline > now + APPEND_MS
  end
  return found
end

-- Entry: {reservation ids, {available, seq} or {}}.
function OPERATIONS.settle(product, entry)
  local ids, told = entry[1], entry[2]
  open(product)
  for _, id in ipairs(ids) do remove(product, id) end
  drop_lapsed(product)
  if told[1] and (not product.seq or told[2] >= product.seq) then
    redis.call('HSET', product.counter, 'available', told[1], 'seq', told[2], 'at_ms', now)
  end
  close(product)
  return 0
end

-- Answers {available}, or {} where that is not known.
function OPERATIONS.availability(product)
  if fresh(product, SHOWN_MS) then return {product.available} end
  return {}
end

local answers = {}
for place, entry in ipairs(cmsgpack.unpack(ARGV[2])) do
  answers[place] = OPERATIONS[ARGV[1]](read(place), entry)
end
return cmsgpack.pack(answers)
