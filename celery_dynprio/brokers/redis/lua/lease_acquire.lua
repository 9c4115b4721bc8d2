-- Take or renew the lease of one queue.
--
-- KEYS  1 the lease, 2 the counter of fencing tokens
-- ARGV  1 owner, 2 kind ("operator", "dedicated" or "embedded"), 3 time to live (milliseconds)
-- Returns the fence "<token>:<kind>:<owner>", or false if another owner has the lease.
--
-- Keeps: tokens only grow, and every change of hands makes a new one. A higher kind takes over from a lower one. Whoever may
-- not do all of this changes nothing but the counter. What is no lease counts as none: another type, and one without an end,
-- as a copy of the data by hand may leave it. A counter that cannot count begins anew.
local rank = { embedded = 1, dedicated = 2, operator = 3 }

-- Returns the answer, nil if the key holds something that it should not.
local function ask(command, key)
  local answer = redis.pcall(command, key)
  if type(answer) ~= 'table' then
    return answer
  end
  for _, sign in ipairs({ 'wrong kind of value', 'not an integer', 'overflow' }) do
    if string.find(answer.err, sign, 1, true) then
      return nil
    end
  end
  return redis.call(command, key) -- raises it again
end

local held = ask('GET', KEYS[1])
if held and redis.call('PTTL', KEYS[1]) >= 0 then
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
local token = ask('INCR', KEYS[2])
if not token then
  token = 1
  redis.call('SET', KEYS[2], token)
end
local fence = string.format('%d:%s:%s', token, ARGV[2], ARGV[1])
redis.call('SET', KEYS[1], fence, 'PX', ARGV[3])
return fence
