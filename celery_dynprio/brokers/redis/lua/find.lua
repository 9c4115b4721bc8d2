-- Find the messages in a part of a list that have one of some texts in them.
--
-- KEYS  1 the list of a level
-- ARGV  1 the first and 2 the last index to look at, from 0 at the head; 3 the size (bytes) of the largest message that is
--       given; 4 after how many bytes to stop; 5.. the texts ("": all messages)
-- Returns how many messages were looked at, how many bytes these have, and then for each that was found: its index, and
-- itself, or of one that is larger its size. None looked at means that the list ends before.
--
-- Keeps: nothing is changed. Few messages are in memory at a time, since nobody knows how large they are before: a list of
-- large ones would take as much again as all of it. A microsecond or two a kilobyte.
local STEP = 4
local at, last, largest, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local first, step, bytes, answer, n = at, 1, 0, { 0, 0 }, 2

local function matches(message)
  for i = 5, #ARGV do
    if ARGV[i] == '' or string.find(message, ARGV[i], 1, true) then
      return true
    end
  end
end

while at <= last and bytes < limit do
  local messages = redis.call('LRANGE', KEYS[1], at, math.min(at + step - 1, last))
  if #messages == 0 then
    break
  end
  step = math.min(2 * step, STEP)
  for i = 1, #messages do
    local size = #messages[i]
    bytes = bytes + size
    if size > largest then
      answer[n + 1], answer[n + 2], n, step = at, size, n + 2, 1
    elseif matches(messages[i]) then
      answer[n + 1], answer[n + 2], n = at, messages[i], n + 2
    end
    at = at + 1
  end
end
answer[1], answer[2] = at - first, bytes
return answer
