-- Posts the bodies of a file in turn, and prints one line of JSON at the end.
-- wrk ... -- FILE PATH CONTENT-TYPE
local requests, turn = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local headers = { ["content-type"] = args[3] }
  while true do
    local size = file:read("*l")
    if not size then break end
    requests[#requests + 1] = wrk.format("POST", args[2], headers, file:read(tonumber(size)))
  end
  file:close()
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "worst_ms": %.3f, '
      .. '"not_200": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
