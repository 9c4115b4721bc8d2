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
local PATTERNS = { '^(%S+) (%S+) (%S+)$', '^(%S+) (%S+) (%S+)$', '^(%S+) (%S+) (%S+) (%S+)$' }
local FORMATS = { '%.9g %.9g ', '%.9g %.9g ', '%.9g %.9g %.9g ' }
for i = 1, 3 do
  FORMATS[i] = FORMATS[i] .. string.format('%.6f', now)
end

local function is_sum(number)
  return number and number >= 0 and number < 1e30
end

-- The three sums of a field as of now; the third is 0 where there are two.
local function decayed(index, value)
  local seconds, count, squares, at = string.match(value or '', PATTERNS[index])
  if index < 3 then
    squares, at = 0, squares
  end
  seconds, count, squares, at = tonumber(seconds), tonumber(count), tonumber(squares), tonumber(at)
  local share = at and 2 ^ (math.min(at - now, 0) / half_life) or 0
  if share > 0 and is_sum(seconds) and is_sum(count) and is_sum(squares) then
    return seconds * share, count * share, squares * share
  end
  return 0, 0, 0
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

local entries = { {}, {}, {} }
for _, entry in ipairs(cjson.decode(ARGV[4])) do
  table.insert(entries[entry[1]], entry)
end
for index = 1, 3 do
  local fields, values = {}, {}
  for i, entry in ipairs(entries[index]) do
    fields[i] = entry[2]
  end
  local known = #fields > 0 and redis.call('HMGET', KEYS[index], unpack(fields)) or {}
  for i, entry in ipairs(entries[index]) do
    local seconds, count, squares = decayed(index, known[i])
    local value = string.format(FORMATS[index], seconds + entry[3], count + entry[4], squares + entry[5])
    values[2 * i - 1], values[2 * i] = entry[2], value
    note(index, entry[2], value)
  end
  if #values > 0 then
    redis.call('HSET', KEYS[index], unpack(values))
  end
end

local dropped = 0
for index = 1, 3 do
  local excess = redis.call('HLEN', KEYS[index]) - bound
  if excess > 0 then
    -- Rarely more than the few fields just added; a hash that somebody else filled shrinks over several calls.
    local smallest = {}
    local sample = redis.call('HRANDFIELD', KEYS[index], math.min(3 * excess + 10, 400), 'WITHVALUES')
    for j = 1, #sample, 2 do
      local seconds, count = decayed(index, sample[j + 1])
      smallest[#smallest + 1] = { sample[j], index == 1 and seconds or count }
    end
    table.sort(smallest, function(a, b) return a[2] < b[2] end)
    for j = 1, math.min(excess, math.ceil(#smallest / 3)) do
      dropped = dropped + redis.call('HDEL', KEYS[index], smallest[j][1])
      note(index, smallest[j][1], '')
    end
  end
end
redis.call('HSET', KEYS[4], 'n', change[1], tostring(tonumber(change[1]) % changes_kept), cjson.encode(change))
return dropped
