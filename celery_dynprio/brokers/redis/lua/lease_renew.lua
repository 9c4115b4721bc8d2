-- Lengthen the lease of one queue.
--
-- KEYS  1 the lease
-- ARGV  1 the fence, 2 time to live (milliseconds)
-- Returns 1 if it was held under this fence, else 0 (and leaves it alone).
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
