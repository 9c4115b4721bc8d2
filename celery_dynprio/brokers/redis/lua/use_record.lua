-- Add what workers measured to the learned use and runtimes.
--
-- KEYS  1 use by fairness key, 2 runtimes by task name; both hashes of field -> "<seconds> <count> <at>"
-- ARGV  1 half-life (seconds), 2 how many fields each hash may keep
--       then for each entry: index in KEYS, field, seconds, count
-- Returns how many fields were dropped because a hash had grown over its bound.
--
-- Keeps: seconds and count stand as of <at> (the server's clock, Unix seconds) and halve with each half-life since. A
-- value that is not of this form counts as absent. A hash over its bound loses the smallest of a random sample, so that
-- no call ever looks at all of it.
local clock = redis.call('TIME')
local now, half_life = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1])

local function decayed(value)
  local seconds, count, at = string.match(value or '', '^(%S+) (%S+) (%S+)$')
  seconds, count, at = tonumber(seconds), tonumber(count), tonumber(at)
  if not (seconds and count and at and seconds >= 0 and seconds < 1e15 and count >= 0 and count < 1e15) then
    return 0, 0
  end
  local share = 2 ^ (math.min(at - now, 0) / half_life)
  if share ~= share then
    return 0, 0
  end
  return seconds * share, count * share
end

-- Who may not drop fields adds none: these change nothing, as no field is so long.
for _, key in ipairs(KEYS) do
  redis.call('HLEN', key)
  redis.call('HRANDFIELD', key, 0)
  redis.call('HDEL', key, string.rep(' ', 256))
end

for i = 3, #ARGV, 4 do
  local key, field = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local seconds, count = decayed(redis.call('HGET', key, field))
  seconds, count = seconds + tonumber(ARGV[i + 2]), count + tonumber(ARGV[i + 3])
  redis.call('HSET', key, field, string.format('%.9g %.9g %.6f', seconds, count, now))
end

local dropped = 0
for i, key in ipairs(KEYS) do
  local excess = redis.call('HLEN', key) - tonumber(ARGV[2])
  if excess > 0 then
    -- Rarely more than the few fields just added; a hash that somebody else filled shrinks over several calls.
    local entries = {}
    local sample = redis.call('HRANDFIELD', key, math.min(3 * excess + 10, 400), 'WITHVALUES')
    for j = 1, #sample, 2 do
      local seconds, count = decayed(sample[j + 1])
      entries[#entries + 1] = { sample[j], i == 1 and seconds or count }
    end
    table.sort(entries, function(a, b) return a[2] < b[2] end)
    for j = 1, math.min(excess, math.ceil(#entries / 3)) do
      dropped = dropped + redis.call('HDEL', key, entries[j][1])
    end
  end
end
return dropped
