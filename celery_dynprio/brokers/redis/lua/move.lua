-- Move pending tasks between the places of one queue.
--
-- KEYS  1 the lease, 2 how many moves were made (a counter), 3 the audit (a stream), 4 the overflow hash, 5 the hash of held
--       tasks, 6 the hash of cancelled tasks, 7.. the lists of the levels
-- ARGV  1 the fence the caller holds, or "" for an operator; 2 how much work to do at most (microseconds, see below);
--       3 JSON: for each move a list of index in KEYS of the source; of the target, below 0 for the end of a list from which
--       workers take; the task's id (of a parked message, its field); 0, or the size (bytes) of a large message; where in a
--       list to look for it: so many messages from the head (1 the first), or below 0, from the tail; what to keep of it in
--       the audit ("": nothing); and the bytes of both texts in 4, which has one behind the other: for each move the message
--       as it is, and as it shall be ("" for the same), of a large one the end only; 5 a text that is in no list
-- Returns false if the lease is not the caller's; else for each move done: 1 moved, 0 gone, 2 refused, 3 moved, but the audit
-- refused its entry. A shorter answer than there are moves means that the work was done: the rest is untouched.
--
-- Keeps: a message is in exactly one place, whichever command fails (out of memory, wrong type, not allowed). It is written
-- to the target before it is taken from the source, and only once it is sure that it can be taken back from there, which is
-- done if the source no longer has it or may not be changed; nobody sees the moment between. A target that already has the
-- id is not overwritten: held and cancelled messages with the same id are kept beside each other, in fields of the id, the
-- separator and a number; the overflow refuses a second one. A move from a place to itself changes the message where it
-- stands. Whoever looked everywhere and did not find a task can tell by the counter whether it may have been moved past him.
-- An error ends the call: the answer tells the moves before it; if there are none, the answer is the error.
local MOVES, AUDIT, OVERFLOW, LAST_HASH, GAP = KEYS[2], KEYS[3], KEYS[4], 6, ARGV[5]
local AUDIT_LENGTH = 10000
local GONE, MOVED, REFUSED, NOT_AUDITED = 0, 1, 2, 3

-- Raises, as redis.call does, but on every server a table, and one that names the command.
local function call(command, ...)
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    error({ err = string.format('%s [%s]', answer.err, command) }, 0)
  end
  return answer
end

if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end

-- A server at its maxmemory refuses LPUSH and HSETNX until a script has begun to write, and then no more. What is moved
-- is there already: refused, a parked backlog that fills the memory could never come back to the workers who free it.
redis.call('HDEL', OVERFLOW, '')
-- Who could not count his moves must make none. A counter that cannot count begins anew.
local count = redis.pcall('GET', MOVES)
if count and (type(count) == 'table' or #count > 15 or not string.find(count, '^%d+$')) then
  redis.call('DEL', MOVES)
end
redis.call('INCRBY', MOVES, 0)

-- Raises if what was put there could not be taken back. Takes nothing: no id is empty.
local permitted = {}
local function check_undo(target, undo)
  if not permitted[target .. undo] then
    call(undo, KEYS[target], undo == 'HDEL' and '' or 0)
    permitted[target .. undo] = true
  end
end

-- Returns the function that undoes it; nil if the target refuses the message.
local COPY, MOST_COPIES = '\6\22', 1000
local function put(target, first, id, new)
  if target > LAST_HASH then
    check_undo(target, first and 'RPOP' or 'LPOP')
    call(first and 'RPUSH' or 'LPUSH', KEYS[target], new)
    return function() call(first and 'RPOP' or 'LPOP', KEYS[target]) end
  end
  check_undo(target, 'HDEL')
  local field = id
  for n = 2, MOST_COPIES + 1 do
    if call('HSETNX', KEYS[target], field, new) == 1 then
      return function() call('HDEL', KEYS[target], field) end
    elseif KEYS[target] == OVERFLOW then
      return nil
    end
    field = id .. COPY .. n
  end
end

-- Messages of more bytes than this are looked for near where they should be. A smaller one is compared with all before it.
local SMALL = 2000

-- LREM would pass a whole list, be it a million long, for a message that is gone; so in a long one LPOS looks first, no
-- further than pushes since the read can have carried it.
local DRIFT = 3000
local function find(source, old, from)
  local depth, direction = math.abs(from), from > 0 and 1 or -1
  return call('LPOS', KEYS[source], old, 'RANK', direction, 'MAXLEN', depth + DRIFT)
end

-- Returns the index of a message of which the size and the end are known, or all of it; the message; and how many bytes were
-- looked at, a look counting for some as well. It is looked for from where it should be on, both ways, no further than so many
-- bytes, which are fewer if it can be found by comparisons, too; and the next ones of its list where it was found. Of a hash
-- the index is 0. Returns nil and "" if it is not there.
local LOOK, FAR, NEAR, drift = 8000, 1500000, 150000, {}
local function seek(source, id, size, rest, from)
  local most = #rest < size and FAR or NEAR
  local function matches(message)
    return message and #message == size and (#rest == size and message == rest or string.sub(message, -#rest) == rest)
  end
  if source <= LAST_HASH then
    local message = call('HGET', KEYS[source], id)
    if matches(message) then
      return 0, message, size
    end
    return nil, '', size
  end
  local should = from > 0 and from - 1 or call('LLEN', KEYS[source]) + from
  local place, looked, far = math.max(should + (drift[source] or 0), 0), 0, 0
  while looked < most do
    local index = place + far
    local message = index >= 0 and call('LRANGE', KEYS[source], index, index)[1]
    looked = looked + LOOK + (message and #message or 0)
    if matches(message) then
      drift[source] = index - should
      return index, message, looked
    end
    far = far > 0 and -far or 1 - far
  end
  return nil, '', looked
end

-- Takes out of a list what is at an index, whatever the size: what takes its place for a moment is found without comparisons.
local function cut(source, index, old, from)
  call('LSET', KEYS[source], index, GAP)
  local ok, problem = pcall(call, 'LREM', KEYS[source], from > 0 and 1 or -1, GAP)
  if not ok then
    call('LSET', KEYS[source], index, old)
    error(problem, 0)
  end
end

-- Also returns how many messages were passed at most. The index is nil if it is not known.
local function take(source, id, old, from, index)
  if source <= LAST_HASH then
    return call('HGET', KEYS[source], id) == old and call('HDEL', KEYS[source], id) == 1, 0
  end
  local length, depth, direction = call('LLEN', KEYS[source]), math.abs(from), from > 0 and 1 or -1
  if index then
    cut(source, index, old, from)
    return true, from > 0 and index + 1 or length - index
  end
  local looks = length > 2 * depth + DRIFT
  if looks and not find(source, old, from) then
    return false, depth + DRIFT
  end
  if call('LREM', KEYS[source], direction, old) == 1 then
    return true, looks and 2 * depth or depth
  end
  return false, length
end

-- Change a message where it stands; returns the same as take.
local function change(place, id, old, new, from, index)
  if place <= LAST_HASH then
    local found = call('HGET', KEYS[place], id) == old
    return found and call('HSET', KEYS[place], id, new) == 0, 0
  end
  local passed = index and 0 or 2 * (math.abs(from) + DRIFT)
  index = index or find(place, old, from)
  if index then
    call('LSET', KEYS[place], index, new)
  end
  return index and true, passed
end

-- Returns what became of it and how many messages were passed; what raises an error has changed nothing.
local function move(source, target, first, id, old, new, from, index)
  if source == target and not first then
    local changed, passed = change(source, id, old, new, from, index)
    return changed and MOVED or GONE, passed
  end
  local undo = put(target, first, id, new)
  if not undo then
    return REFUSED, 0
  end
  local ok, taken, passed = pcall(take, source, id, old, from, index)
  if ok and taken then
    return MOVED, passed
  end
  undo()
  if not ok then
    error(taken, 0)
  end
  return GONE, passed
end

-- A script cannot ask for the time on every server (frozen in Redis 7.2 and Valkey, no os.clock before Redis 7.4). So work is
-- counted in microseconds as they were measured: of a move, of a byte that goes in or out, of a message that is passed, and of
-- a byte that is compared with one of it: it may be of the same size, and begin alike.
local MOVE, BYTE, PASS, COMPARE = 10, 0.004, 0.05, 0.00013
local work, limit, moved, outcomes, problem = 0, tonumber(ARGV[2]), 0, {}, nil
local at = 0
local function text(size)
  at = at + size
  return string.sub(ARGV[4], at - size + 1, at)
end

for i, each in ipairs(cjson.decode(ARGV[3])) do
  local source, target, id, large, from, audit = unpack(each)
  local old, new = text(each[7]), text(each[8])
  local size = math.max(large, #old)
  local sought, index = large > 0 or (size > SMALL and source > LAST_HASH), nil
  if i > 1 and work + MOVE + BYTE * 2 * size + math.abs(from) * (sought and PASS or PASS + COMPARE * size) > limit then
    break
  end
  local ok, outcome, passed = pcall(function()
    local message, looked
    if sought then
      index, message, looked = seek(source, id, size, old, from)
      work = work + BYTE * looked
    end
    if large > 0 then
      if not index then
        return GONE, 0
      end
      new = new ~= '' and string.sub(message, 1, large - #old) .. new or ''
      old = message
    end
    return move(source, math.abs(target), target < 0, id, old, new == '' and old or new, from, index)
  end)
  if not ok then
    problem = outcome
    break
  end
  if outcome == MOVED then
    moved = moved + 1
    if audit ~= '' and type(redis.pcall('XADD', AUDIT, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'entry', audit)) == 'table' then
      outcome = NOT_AUDITED
    end
  end
  outcomes[#outcomes + 1] = outcome
  work = work + MOVE + BYTE * (#old + #new) + passed * (index and PASS or PASS + COMPARE * size)
end
if moved > 0 then
  redis.call('INCRBY', MOVES, moved)
end
if problem and #outcomes == 0 then
  return redis.error_reply(problem.err or problem)
end
return outcomes
