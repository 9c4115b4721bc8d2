-- Find the messages in a part of a list that have one of some texts in them.
--
-- KEYS  1 the list of a level
-- ARGV  1 the first and 2 the last index to look at, from 0 at the head; 3 the size (bytes) of the largest message that is
--       given; 4 after how many bytes to stop; 5.. the texts ("": all messages)
-- Returns how many messages were looked at, how many bytes these have, 1 if the list ends there or 0, and then for each that
-- was found: its index, and itself, or of one that is larger its size.
--
-- Keeps: nothing is changed. Few messages are in memory at a time, since nobody knows how large they are before: a list of
-- large ones would take as much again as all of it. A microsecond or two a kilobyte. To get to an index the server passes all
-- between it and the nearer end: that counts like bytes, and the more it is, the more messages are read at once.
local STEP, MOST_STEP, FAR, PASS = 4, 64, 250, 2
local at, last, largest, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local first, bytes, passed, ends, answer, n = at, 0, 0, 0, { 0, 0, 0 }, 3
local length = redis.call('LLEN', KEYS[1])

local function reach(least)
  local far = math.max(math.min(at, length - at), 0)
  return math.max(least, math.min(MOST_STEP, math.floor(far / FAR))), far
end

local function matches(message)
  for i = 5, #ARGV do
    if ARGV[i] == '' or string.find(message, ARGV[i], 1, true) then
      return true
    end
  end
end

local step = reach(1)
while at <= last and bytes + PASS * passed < limit do
  local most, far = reach(STEP)
  local messages = redis.call('LRANGE', KEYS[1], at, math.min(at + step - 1, last))
  if #messages == 0 then
    ends = 1
    break
  end
  step, passed = math.min(2 * step, most), passed + far
  local largest_read = 1
  for i = 1, #messages do
    local size = #messages[i]
    bytes, largest_read = bytes + size, math.max(largest_read, size)
    if size > largest then
      answer[n + 1], answer[n + 2], n, step = at, size, n + 2, 1
    elseif matches(messages[i]) then
      answer[n + 1], answer[n + 2], n = at, messages[i], n + 2
    end
    at = at + 1
  end
  step = math.max(1, math.min(step, math.floor((limit - bytes) / largest_read)))
end
answer[1], answer[2], answer[3] = at - first, bytes, ends
return answer
