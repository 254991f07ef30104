-- SPDX-License-Identifier: Apache-2.0

-- wrk's part of make bench-allocation: posts the file named by the first
-- argument and ends with one line of numbers: requests a second, the 50th, 99th
-- and 99.9th percentile in microseconds, and how many answers were not 2xx or
-- did not come.

local threads = {}

function setup(thread) table.insert(threads, thread) end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json; charset=utf-8"
  file:close()
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("numbers %.1f %.0f %.0f %.0f %d\n",
    summary.requests / summary.duration * 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    e.connect + e.read + e.write + e.timeout + e.status))
end
