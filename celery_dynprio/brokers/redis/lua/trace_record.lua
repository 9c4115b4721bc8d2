-- Keep what is known of some runs of tasks, within bounds.
--
-- KEYS  1 the traces (sorted set of trace id by the time at which its time is over), 2 how many spans each has (hash; the field ""
--       is the sum), then the hash of its trace for each entry, and those of traces to drop: span -> "<rank><record>", and
--       "" -> how many spans found no room
-- ARGV  1 seconds that a trace is kept after its last change, 2 spans of one trace, 3 spans of all traces, 4 length of what
--       stands before the trace id in the name of its hash, 5 how many entries there are; then for each: span, "<rank><record>"
-- Returns how many spans found no room, and the ids of the oldest traces, to be dropped because the sum is over its bound.
--
-- Keeps: of two records of one span the one of the higher rank (0 published, 1 started, 2 ended well, 3 anything else), of
-- two equal ones the later. A tenth of the room in each trace is for rank 3, so that what failed is not missing. All that
-- is kept of a trace is gone when its time is over, by itself: its hash expires when its other entries are dropped here.
local TRACES, SIZES, RESERVED = KEYS[1], KEYS[2], 3
local clock = redis.call('TIME')
local now, ttl = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1])
local room, bound = tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST, last = 3, 2 + tonumber(ARGV[5])

local function id_of(key)
  return string.sub(key, tonumber(ARGV[4]) + 1)
end

local function size(id)
  return tonumber(redis.call('HGET', SIZES, id) or 0) or 0
end

local function forget(id)
  local count = size(id)
  redis.call('ZREM', TRACES, id)
  redis.call('HDEL', SIZES, id)
  redis.call('HSET', SIZES, '', math.max(size('') - count, 0))
end

-- Another app on this broker may keep its traces for longer.
local function keep()
  for _, key in ipairs({ TRACES, SIZES }) do
    redis.call('PEXPIRE', key, math.max(math.ceil(ttl * 1000), redis.call('PTTL', key)))
  end
end

-- One of the two may be gone without the other, by an eviction or by hand: what is left of it would never be forgotten.
if redis.call('EXISTS', TRACES) == 0 then
  redis.call('UNLINK', SIZES)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', TRACES, '-inf', now, 'LIMIT', 0, 200)) do
  forget(id)
end

-- Nothing is kept unless all can be: refused in the middle, what was kept so far might never be forgotten. These change
-- nothing, the first also because a server out of memory refuses it.
redis.call('ZADD', TRACES, 'XX', 0, '')
redis.call('HLEN', SIZES)
redis.call('HSETNX', SIZES, '', 0)
redis.call('HSET', SIZES, '', math.floor(size('')))
redis.call('HINCRBY', SIZES, '', 0)
redis.call('HDEL', SIZES, '\n')
keep()

local adding = {}
for i = FIRST, last do
  adding[id_of(KEYS[i])] = true
end
for i = last + 1, #KEYS do
  local id = id_of(KEYS[i])
  if size('') > bound and not adding[id] then
    redis.call('UNLINK', KEYS[i])
    forget(id)
  end
end

-- First, so that whatever fails below leaves nothing that would never be forgotten.
local times = {}
for i = FIRST, last do
  times[#times + 1], times[#times + 2] = now + ttl, id_of(KEYS[i])
end
if #times > 0 then
  redis.call('ZADD', TRACES, unpack(times))
end

local refused, added, written = 0, 0, {}
for i = FIRST, last do
  local key, span, value = KEYS[i], ARGV[2 * i], ARGV[2 * i + 1]
  local id, rank = id_of(key), string.byte(value)
  local new, first = redis.call('HSETNX', key, span, value) == 1, not written[id]
  if first then
    written[id] = true
    redis.call('PEXPIRE', key, math.ceil(ttl * 1000))
  end
  if new then
    local count = redis.call('HINCRBY', SIZES, id, 1)
    if count > 1 and first and redis.call('HLEN', key) == 1 then  -- all that was counted is gone
      redis.call('HSET', SIZES, id, 1)
      added, count = added - (count - 1), 1
    end
    if count <= (rank == 48 + RESERVED and room or room - math.floor(room / 10)) then
      added = added + 1
    else
      redis.call('HDEL', key, span)
      redis.call('HINCRBY', SIZES, id, -1)
      redis.call('HINCRBY', key, '', 1)
      refused = refused + 1
    end
  elseif (string.byte(redis.call('HGET', key, span)) or 0) <= rank then
    redis.call('HSET', key, span, value)
  end
end
redis.call('HSET', SIZES, '', math.max(size('') + added, 0))

keep()

local answer, excess = { refused }, size('') - bound
if excess > 0 then
  for _, id in ipairs(redis.call('ZRANGE', TRACES, 0, 49)) do
    if excess > 0 then
      answer[#answer + 1] = id
      excess = excess - size(id)
    end
  end
end
return answer
