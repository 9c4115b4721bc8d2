-- Lengthen the leases of some queues.
--
-- KEYS  the leases
-- ARGV  1 time to live (milliseconds), then the fence of each lease
-- Returns how many were held under this fence; it leaves the others alone.
local held = 0
for i = 1, #KEYS do
  if redis.pcall('GET', KEYS[i]) == ARGV[i + 1] then -- an error if it is no lease any more
    held = held + redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return held
