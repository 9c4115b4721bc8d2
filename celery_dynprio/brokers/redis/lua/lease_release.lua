-- Give the lease of one queue back.
--
-- KEYS  1 the lease
-- ARGV  1 the fence
-- Returns 1 if it was held under this fence, else 0 (and leaves it alone).
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
