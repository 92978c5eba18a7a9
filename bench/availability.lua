-- wrk: the same read again and again. BENCH_SKU names the product.
local text = ""
function init(args)
  text = "GET /api/v1/products/" .. (os.getenv("BENCH_SKU") or "BENCH-1") .. "/availability HTTP/1.1\r\nHost: "
    .. wrk.host .. ":" .. wrk.port .. "\r\n\r\n"
end

function request()
  return text
end

function done(summary)
  local e = summary.errors
  io.write(string.format("result requests=%d us=%d refused=%d broken=%d\n", summary.requests,
    summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
