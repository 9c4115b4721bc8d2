-- Move pending tasks between the places of one queue.
--
-- KEYS  1 the lease, 2 the overflow hash, 3 the hash of held tasks, 4.. the lists of the levels
-- ARGV  1 the fence the caller holds, or "" for an operator; 2 how much work to do at most, in messages that LREM passes
--       then for each move: index in KEYS of the source, of the target, the task id, the message as it is, the message
--       as it shall be ("" for the same), and where in a list to look for it: so many messages from the head (1 the first), or
--       below 0, from the tail
-- Returns false if the lease is not the caller's; else for each move done: 1 moved, 0 gone, 2 refused. A shorter answer
-- than there are moves means that the work was done: the rest is untouched.
--
-- Keeps: a message is in exactly one place. It is written to the target before it is taken from the source, and taken
-- back if the source no longer has it, so that an error half-way (out of memory, wrong type) loses nothing; nobody
-- sees the moment between. A target that already has the id is not overwritten.
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end

-- A server at its maxmemory refuses LPUSH and HSETNX until a script has begun to write, and then no more. What is moved
-- is there already: refused, a parked backlog that fills the memory could never come back to the workers who free it.
redis.call('HDEL', KEYS[2], '')

local function put(target, id, new)
  if target > 3 then
    redis.call('LPUSH', KEYS[target], new)
    return true
  end
  return redis.call('HSETNX', KEYS[target], id, new) == 1
end

-- Also returns how many messages were passed at most. LREM would pass a whole list, be it a million long, for a message
-- that is gone; so in a long one LPOS looks first, no further than pushes since the read can have carried it.
local DRIFT = 3000
local function take(source, id, old, from)
  if source <= 3 then
    return redis.call('HGET', KEYS[source], id) == old and redis.call('HDEL', KEYS[source], id) == 1, 0
  end
  local length, depth, direction = redis.pcall('LLEN', KEYS[source]), math.abs(from), from > 0 and 1 or -1
  if type(length) ~= 'number' then
    return false, 0
  end
  local looks = length > 2 * depth + DRIFT
  if looks and not redis.call('LPOS', KEYS[source], old, 'RANK', direction, 'MAXLEN', depth + DRIFT) then
    return false, depth + DRIFT
  end
  if redis.call('LREM', KEYS[source], direction, old) == 1 then
    return true, looks and 2 * depth or depth
  end
  return false, length
end

local function undo(target, id)
  if target > 3 then
    redis.call('LPOP', KEYS[target])
  else
    redis.call('HDEL', KEYS[target], id)
  end
end

-- A script cannot ask for the time on every server (frozen in Redis 7.2 and Valkey, no os.clock before Redis 7.4).
local MOVE = 150 -- what a move costs besides its LREM, in messages passed
local work, limit, outcomes = 0, tonumber(ARGV[2]), {}
for i = 3, #ARGV, 6 do
  local source, target, id = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  local from = tonumber(ARGV[i + 5])
  if i > 3 and work + math.abs(from) > limit then
    break
  end
  local new = ARGV[i + 4] == '' and ARGV[i + 3] or ARGV[i + 4]
  local taken, passed = false, 0
  if not put(target, id, new) then
    outcomes[#outcomes + 1] = 2
  else
    taken, passed = take(source, id, ARGV[i + 3], from)
    if not taken then
      undo(target, id)
    end
    outcomes[#outcomes + 1] = taken and 1 or 0
  end
  work = work + MOVE + passed
end
return outcomes
