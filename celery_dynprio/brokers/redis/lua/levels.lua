-- Say which levels of a queue may be used, and empty the others.
--
-- KEYS  1 the lease, 2 how many moves were made (a counter), 3 the levels that may be used, then for each that may not: its
--       list, and the list of the level before it that may
-- ARGV  1 the fence the caller holds, or "" for an operator, 2 the text for KEYS[3] ("": none), 3 its time to live (milliseconds),
--       4 how many messages and 5 how many bytes to move at most (the last message may be larger)
-- Returns false if the lease is not the caller's; else how many messages were moved: until it is 0 there may be more.
--
-- Keeps: a message is in exactly one list, as it was and in its order; where it goes, behind what is there.
local LEASE, MOVES, LEVELS, FIRST = KEYS[1], KEYS[2], KEYS[3], 4
if ARGV[1] ~= '' and redis.call('GET', LEASE) ~= ARGV[1] then
  return false
end
redis.call('DEL', LEVELS) -- first: a server at its maxmemory refuses SET and LMOVE until a script has begun to write
if ARGV[2] ~= '' then
  redis.call('SET', LEVELS, ARGV[2], 'PX', ARGV[3])
end
-- Who could not count his moves must make none. A counter that cannot count begins anew.
local count = redis.pcall('GET', MOVES)
if count and (type(count) == 'table' or #count > 15 or not string.find(count, '^%d+$')) then
  redis.call('DEL', MOVES)
end
redis.call('INCRBY', MOVES, 0)
local moved, messages, bytes = 0, tonumber(ARGV[4]), tonumber(ARGV[5])
for i = FIRST, #KEYS, 2 do
  while moved < messages and bytes > 0 do
    local message = redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'RIGHT', 'LEFT')
    if not message then
      break
    end
    moved, bytes = moved + 1, bytes - #message
  end
end
if moved > 0 then
  redis.call('INCRBY', MOVES, moved)
end
return moved
