-- Keep runs that are alone in their traces: all of them in one entry.
--
-- KEYS  1 the entries (stream): "runs", how many there are ("count"), how many there are in all entries so far, itself
--       included ("total"), and when its time is over ("until")
-- ARGV  1 seconds that an entry is kept, 2 runs of all entries together, 3 how many runs there are, 4 the runs
-- Returns how many entries were dropped.
--
-- Keeps: the oldest entries are dropped when their time is over, and when all together have more runs than the bound.
-- What is no such entry is dropped when it is the oldest. All times are by the server's clock (Unix seconds).
local KEY = KEYS[1]
local clock = redis.call('TIME')
local now, ttl, bound = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1]), tonumber(ARGV[2])

-- The numbers of an entry; each is nil if it has none.
local function read(entry)
  local found = {}
  for i = 1, #entry[2], 2 do
    found[entry[2][i]] = tonumber(entry[2][i + 1])
  end
  return found
end

-- Another app on this broker may keep its traces for longer.
local function keep()
  redis.call('PEXPIRE', KEY, math.max(math.ceil(ttl * 1000), redis.call('PTTL', KEY)))
end

-- Who may not drop entries, or let them expire, adds none: these change nothing.
redis.call('XTRIM', KEY, 'MINID', '0-0')
redis.call('XRANGE', KEY, '0-0', '0-0')
keep()

local newest = redis.call('XREVRANGE', KEY, '+', '-', 'COUNT', 1)[1]
local before = newest and read(newest).total or 0
local total = (before >= 0 and before < 1e15 and before or 0) + tonumber(ARGV[3])
redis.call('XADD', KEY, '*', 'until', string.format('%.3f', now + ttl), 'count', ARGV[3], 'total', string.format('%.0f', total),
  'runs', ARGV[4])
keep()

local dropped = 0
for _ = 1, 20 do  -- whatever somebody else has put there, no call takes long
  local oldest = redis.call('XRANGE', KEY, '-', '+', 'COUNT', 1)[1]
  local known = oldest and read(oldest) or {}
  if not oldest or known['until'] and known['until'] > now and known.total and known.count
      and total - (known.total - known.count) <= bound then
    break
  end
  local ms, seq = string.match(oldest[1], '(%d+)-(%d+)')
  dropped = dropped + redis.call('XTRIM', KEY, 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
end
return dropped
