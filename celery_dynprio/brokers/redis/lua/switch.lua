-- Turn a switch on.
--
-- KEYS  1 the switch
-- ARGV  1 its value
redis.call('PERSIST', KEYS[1]) -- changes nothing: a server out of memory lets a script go on that has begun to write
return redis.call('SET', KEYS[1], ARGV[1])
