-- Find the messages in a part of a list that have one of some texts in them.
--
-- KEYS  1 the list of a level
-- ARGV  1 the first and 2 the last index to look at, from 0 at the head; 3.. the texts
-- Returns how many messages were looked at, how many bytes these have, and then for each that was found: its index, itself.
--
-- Keeps: nothing is changed. How long it takes is up to the caller, who chooses the part: a microsecond or two a kilobyte.
local messages = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local answer, bytes = { #messages, 0 }, 0
for i, message in ipairs(messages) do
  bytes = bytes + #message
  for j = 3, #ARGV do
    if string.find(message, ARGV[j], 1, true) then
      answer[#answer + 1] = tonumber(ARGV[1]) + i - 1
      answer[#answer + 1] = message
      break
    end
  end
end
answer[2] = bytes
return answer
