-- Tell messages of a hash, of large ones without their bodies.
--
-- KEYS  1 the hash of a parked place
-- ARGV  1 the size (bytes) of the largest message that is told whole, 2 of the largest of which the rest is told, and 3 how many
--       of its last bytes a message is told from others by; 4 after how many bytes of messages to stop; then either 5 "scan", 6 a
--       cursor and 7 about how many messages to go on by; or 5 "get" and 6.. the fields
-- Returns the next cursor, 0 at the end, and for each message its field and itself, as short.lua tells it; or of the fields, as
-- far as it came, each message, or false where there is none.
--
-- Keeps: nothing is changed.
local short, bytes, limit = teller(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])), 0, tonumber(ARGV[4])
if ARGV[5] == 'scan' then
  local cursor, found = unpack(redis.call('HSCAN', KEYS[1], ARGV[6], 'COUNT', ARGV[7]))
  for i = 2, #found, 2 do
    found[i] = short(found[i])
  end
  return { cursor, found }
end
local answer = {}
for i = 6, #ARGV do
  if bytes >= limit then
    break
  end
  local message = redis.call('HGET', KEYS[1], ARGV[i])
  answer[i - 5], bytes = message and short(message), bytes + #(message or '')
end
return answer
