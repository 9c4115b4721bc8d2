-- Tell who has the leases of some queues.
--
-- KEYS  the leases
-- Returns the fence of each; false where there is none: nothing, another type, or a lease without an end.
--
-- Keeps: nothing is changed.
local fences = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  if fences[i] and redis.call('PTTL', KEYS[i]) < 0 then
    fences[i] = false
  end
end
return fences
