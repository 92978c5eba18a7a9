-- One reservation, atomically: key first, then the purchase limit, then the stock.
-- KEYS: request key, bought by this user, stock.  ARGV: quantity, limit, reservation id, key lifetime (s).
local known = redis.call('GET', KEYS[1])
if known then return {'REPLAY', known} end
local quantity = tonumber(ARGV[1])
local bought = tonumber(redis.call('GET', KEYS[2]) or '0')
if bought + quantity > tonumber(ARGV[2]) then return {'LIMIT_EXCEEDED', tostring(bought)} end
local left = tonumber(redis.call('GET', KEYS[3]) or '0')
if left < quantity then return {'SOLD_OUT', tostring(left)} end
redis.call('DECRBY', KEYS[3], quantity)
redis.call('INCRBY', KEYS[2], quantity)
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4])
return {'RESERVED', ARGV[3]}
