-- Add what workers measured to the learned use and runtimes.
--
-- KEYS  1 use by fairness key, 2 runtimes by task name; both hashes of field -> "<seconds> <count> <at>"
--       3 spreads by task name and key, a hash of field -> "<seconds> <count> <squares> <at>"
--       4 the latest changes, a hash: "n" -> number of the last one, <number modulo ARGV 3> -> JSON, see below
-- ARGV  1 half-life (seconds), 2 how many fields each of the first three may keep, 3 how many changes are kept
--       4 JSON: for each entry a list of index in KEYS, field, seconds, count, squares (of the seconds; ignored but for
--       the third)
-- Returns how many fields were dropped because a hash had grown over its bound.
--
-- Keeps: the sums stand as of <at> (the server's clock, Unix seconds) and halve with each half-life since. A value that
-- is not of this form counts as absent. A hash over its bound loses the smallest of a random sample, so that no call
-- ever looks at all of it. One change is all that one call did: a list of its number, then of index, field and new value
-- for each field ("" for one that was dropped), so that who knows all before it need not read the hashes again.
local clock = redis.call('TIME')
local now, half_life = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1])
local bound, changes_kept = tonumber(ARGV[2]), tonumber(ARGV[3])
local SUMS = { 2, 2, 3 }

local function decayed(index, value)
  local found, sums = {}, {}
  for number in string.gmatch(value or '', '%S+') do
    found[#found + 1] = tonumber(number)
  end
  local at = found[SUMS[index] + 1]
  local share = #found == SUMS[index] + 1 and 2 ^ (math.min(at - now, 0) / half_life) or 0
  for i = 1, SUMS[index] do
    local sum = (found[i] or 0) * share
    if not (share > 0 and sum >= 0 and found[i] < 1e30) then
      return { 0, 0, 0 }
    end
    sums[i] = sum
  end
  return sums
end

-- Who may not drop fields adds none: these change nothing, as no field is so long.
for i = 1, 3 do
  redis.call('HLEN', KEYS[i])
  redis.call('HRANDFIELD', KEYS[i], 0)
  redis.call('HDEL', KEYS[i], string.rep(' ', 1024))
end
local last = redis.call('HGET', KEYS[4], 'n')
local number = tonumber(last)
local change = { tostring((number and number >= 0 and number < 1e15 and math.floor(number) or 0) + 1) }

local function note(index, field, value)
  change[#change + 1], change[#change + 2], change[#change + 3] = index, field, value
end

for _, entry in ipairs(cjson.decode(ARGV[4])) do
  local index, field = entry[1], entry[2]
  local sums = decayed(index, redis.call('HGET', KEYS[index], field))
  local value = ''
  for j = 1, SUMS[index] do
    value = value .. string.format('%.9g ', sums[j] + entry[2 + j])
  end
  value = value .. string.format('%.6f', now)
  redis.call('HSET', KEYS[index], field, value)
  note(index, field, value)
end

local dropped = 0
for index = 1, 3 do
  local excess = redis.call('HLEN', KEYS[index]) - bound
  if excess > 0 then
    -- Rarely more than the few fields just added; a hash that somebody else filled shrinks over several calls.
    local entries = {}
    local sample = redis.call('HRANDFIELD', KEYS[index], math.min(3 * excess + 10, 400), 'WITHVALUES')
    for j = 1, #sample, 2 do
      local sums = decayed(index, sample[j + 1])
      entries[#entries + 1] = { sample[j], index == 1 and sums[1] or sums[2] }
    end
    table.sort(entries, function(a, b) return a[2] < b[2] end)
    for j = 1, math.min(excess, math.ceil(#entries / 3)) do
      dropped = dropped + redis.call('HDEL', KEYS[index], entries[j][1])
      note(index, entries[j][1], '')
    end
  end
end
redis.call('HSET', KEYS[4], 'n', change[1], tostring(tonumber(change[1]) % changes_kept), cjson.encode(change))
return dropped
