-- Take or renew the lease of one queue.
--
-- KEYS  1 the lease, 2 the counter of fencing tokens
-- ARGV  1 owner, 2 kind ("operator", "dedicated" or "embedded"), 3 time to live (milliseconds)
-- Returns the fence "<token>:<kind>:<owner>", or false if another owner has the lease.
--
-- Keeps: tokens only grow, and every change of hands makes a new one. A higher kind takes over from a lower one. Whoever may
-- not do all of this changes nothing but the counter.
local rank = { embedded = 1, dedicated = 2, operator = 3 }
local held = redis.call('GET', KEYS[1])
if held then
  local kind, owner = string.match(held, '^%d+:(%a+):(.*)$')
  if owner == ARGV[1] and kind == ARGV[2] then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return held
  end
  if owner ~= ARGV[1] and (rank[kind] or 0) >= rank[ARGV[2]] then
    return false
  end
end
redis.call('PERSIST', KEYS[2]) -- changes nothing: a server out of memory lets a script go on that has begun to write
local fence = string.format('%d:%s:%s', redis.call('INCR', KEYS[2]), ARGV[2], ARGV[1])
redis.call('SET', KEYS[1], fence, 'PX', ARGV[3])
return fence
