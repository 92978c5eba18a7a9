-- wrk: one reservation per request, each buyer from a line of BENCH_BUYERS.THREAD: "user address pass token"; "-" is none.
-- BENCH_SKU names the product. When the lines are used up it begins anew.
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local requests, at = {}, 0

local function header(name, value)
  if value == "-" then return "" end
  return name .. ": " .. value .. "\r\n"
end

function init(args)
  local body = '{"skuId":"' .. os.getenv("BENCH_SKU") .. '","quantity":1}'
  local head = "POST /api/v1/reservations HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n"
  for line in io.lines(os.getenv("BENCH_BUYERS") .. "." .. number) do
    local user, address, pass, token = line:match("(%S+) (%S+) (%S+) (%S+)")
    requests[#requests + 1] = head .. "Idempotency-Key: " .. user .. "-" .. #requests .. "\r\n" .. header("X-User-ID", user)
      .. header("X-Forwarded-For", address) .. header("X-Flashsale-Pass", pass)
      .. header("Authorization", token == "-" and "-" or "Bearer " .. token) .. "\r\n" .. body
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary)
  local e = summary.errors
  io.write(string.format("result requests=%d us=%d refused=%d broken=%d\n", summary.requests,
    summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
