-- Note runs that have started, or that go on.
--
-- KEYS  1 what runs, a hash of id -> "<started> <until> <JSON of name and key>"
-- ARGV  1 seconds for which it counts, 2 how many fields the hash may have
--       then for each run: id, seconds that it has taken so far, JSON of name and key
-- Returns how many were left out because the hash is full.
--
-- Keeps: all times are by the server's clock (Unix seconds). A run that is noted again keeps its start. Of a random
-- sample those are dropped that count no more, so that no call ever looks at all of the hash.
local clock = redis.call('TIME')
local now, ttl = tonumber(clock[1]) + tonumber(clock[2]) / 1e6, tonumber(ARGV[1])

-- Who may not drop or expire what is noted notes nothing: these change nothing.
redis.call('EXPIRE', KEYS[1], math.ceil(ttl))
redis.call('HDEL', KEYS[1], '')

local sample = redis.call('HRANDFIELD', KEYS[1], 20, 'WITHVALUES')
for i = 1, #sample, 2 do
  local till = tonumber(string.match(sample[i + 1], '^%S+ (%S+) '))
  if not till or till <= now then
    redis.call('HDEL', KEYS[1], sample[i])
  end
end

local left_out, room = 0, tonumber(ARGV[2]) - redis.call('HLEN', KEYS[1])
for i = 3, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if known or room > 0 then
    local started = known and string.match(known, '^([%d.]+) ') or string.format('%.3f', now - tonumber(ARGV[i + 1]))
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%s %.3f %s', started, now + ttl, ARGV[i + 2]))
    room = known and room or room - 1
  else
    left_out = left_out + 1
  end
end
redis.call('EXPIRE', KEYS[1], math.ceil(ttl))
return left_out
