-- Keep what is known of some runs of tasks, within bounds.
--
-- KEYS  1 the traces (sorted set of trace id by the time at which its time is over), 2 how many spans each has (hash; the field ""
--       is the sum), 3.. one hash for each trace that is written or dropped below: span -> "<rank><record>", and "" -> how
--       many spans found no room
-- ARGV  1 seconds that a trace is kept after its last change, 2 spans of one trace, 3 spans of all traces, 4 how many
--       entries follow
--       then for each entry: index in KEYS, trace id, span, "<rank><record>"
--       then for each trace to drop: index in KEYS, trace id
-- Returns how many spans found no room, and the ids of the oldest traces, to be dropped because the sum is over its bound.
--
-- Keeps: of two records of one span the one of the higher rank (0 published, 1 started, 2 ended well, 3 anything else), of
-- two equal ones the later. A tenth of the room in each trace is for rank 3, so that what failed is not missing. All that
-- is kept of a trace is gone when its time is over, by itself: its hash expires when its other entries are dropped here.
local TRACES, SIZES, RESERVED = KEYS[1], KEYS[2], 3
local clock = redis.call('TIME')
local now, ttl = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1])
local room, bound = tonumber(ARGV[2]), tonumber(ARGV[3])

local function size(id)
  return tonumber(redis.call('HGET', SIZES, id) or 0) or 0
end

local function forget(id)
  local count = size(id)
  redis.call('ZREM', TRACES, id)
  redis.call('HDEL', SIZES, id)
  redis.call('HSET', SIZES, '', math.max(size('') - count, 0))
end

-- One of the two may be gone without the other, by an eviction or by hand: what is left of it would never be forgotten.
if redis.call('EXISTS', TRACES) == 0 then
  redis.call('UNLINK', SIZES)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', TRACES, '-inf', now, 'LIMIT', 0, 200)) do
  forget(id)
end

local refused, added, written, last = 0, 0, {}, 4 + 4 * tonumber(ARGV[4])
for i = 5, last, 4 do
  local key, id, span, value = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local rank = string.byte(value)
  if not written[id] and redis.call('HEXISTS', SIZES, id) == 1 and redis.call('EXISTS', key) == 0 then
    forget(id)
  end
  if redis.call('HSETNX', key, span, value) == 0 then
    if (string.byte(redis.call('HGET', key, span)) or 0) <= rank then
      redis.call('HSET', key, span, value)
    end
  elseif redis.call('HINCRBY', SIZES, id, 1) <= (rank == 48 + RESERVED and room or room - math.floor(room / 10)) then
    added = added + 1
  else
    redis.call('HDEL', key, span)
    redis.call('HINCRBY', SIZES, id, -1)
    redis.call('HINCRBY', key, '', 1)
    refused = refused + 1
  end
  if not written[id] then
    written[id] = true
    redis.call('ZADD', TRACES, now + ttl, id)
    redis.call('PEXPIRE', key, math.ceil(ttl * 1000))
  end
end
redis.call('HSET', SIZES, '', size('') + added)

for i = last + 1, #ARGV, 2 do
  local key, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if size('') > bound and not written[id] then
    redis.call('UNLINK', key)
    forget(id)
  end
end
for _, key in ipairs({ TRACES, SIZES }) do
  -- Another app on this broker may keep its traces for longer.
  redis.call('PEXPIRE', key, math.max(math.ceil(ttl * 1000), redis.call('PTTL', key)))
end

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
