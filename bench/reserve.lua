-- wrk: one reservation per request, every buyer and every request key used once.
-- BENCH_SEED (8 hex digits) keeps runs apart, BENCH_SKU names the product.
-- A counter is mixed by a bijection of 32 bits, so ids look random and never repeat within a thread.
local bit = require("bit")
local bxor, rshift, tobit, tohex = bit.bxor, bit.rshift, bit.tobit, bit.tohex

local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local counter, head, middle, tail = 0, "", "", ""
function init(args)
  local mark = (os.getenv("BENCH_SEED") or "00000000") .. tohex(number, 2)
  local sku = os.getenv("BENCH_SKU") or "BENCH-1"
  local body = '{"skuId":"' .. sku .. '","quantity":1,"userId":"' .. ("0"):rep(8) .. mark .. '"}'
  head = "POST /api/v1/reservations HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\nIdempotency-Key: "
  middle = mark .. '\r\n\r\n{"skuId":"' .. sku .. '","quantity":1,"userId":"'
  tail = mark .. '"}'
end

function request()
  counter = counter + 1
  local x = tobit(counter * 40503)
  x = bxor(x, rshift(x, 15))
  x = tobit(x * 25969)
  x = bxor(x, rshift(x, 13))
  local id = tohex(x)
  return head .. id .. middle .. id .. tail
end

function done(summary)
  local e = summary.errors
  io.write(string.format("result requests=%d us=%d refused=%d broken=%d\n", summary.requests,
    summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
