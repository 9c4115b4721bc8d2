-- Tell what is new in lists of which the caller knows what they were: from the head, where producers push, up to a message
-- that he knows (the anchor), or to the end.
--
-- KEYS  1 how many moves were made (a counter), 2.. the lists
-- ARGV  1 how many messages and 2 how many bytes of them to look at, at most; 3 the size (bytes) of the largest message that is
--       told whole, and 4 of the largest of which the rest is told; 5 how many of its last bytes a message is told from others
--       by; 6 how many messages at the tail to digest, and 7 after how many bytes of these to stop; 8 whether to tell all
--       then for each list: the index to begin at, from 0 at the head; the size and the last bytes of the anchor (-1 and "" for
--       none); how far behind the anchor to begin a second digest, and of how many messages
-- Returns the number of moves, and for each list: its length; how many messages were looked at; 0 if there are more, 1 if the
-- next one is the anchor, 2 if the list ends there; if it is the anchor, how many messages at the tail are in the first digest,
-- this digest (SHA-1), and the same of the second; and the messages: each as it is, or of a large one its size and the rest,
-- which is what comes behind its body, or of a larger one its size and its last bytes. A list for which no work was left
-- answers that there are more. If all is to be told, the whole list follows: that is for tests.
--
-- Keeps: nothing is changed. Few messages are in memory at a time, since nobody knows how large they are before. The first list
-- gets on with each call, and no list is begun once the work is done. To get to an index the server passes all between it
-- and the nearer end: that counts like bytes, and the more it is, the more messages are read at once.
local STEP, MOST_STEP, FAR, PASS = 4, 64, 250, 2
local MORE, ANCHOR, ENDS = 0, 1, 2
local messages_left, bytes_left, LARGE, LARGEST = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local MARK, TAIL, TAIL_BYTES, FIRST, EACH = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), 9, 5
local short = teller(LARGE, LARGEST, MARK)

local function work_left()
  return messages_left > 0 and bytes_left > 0
end

local function count(message)
  messages_left, bytes_left = messages_left - 1, bytes_left - #message
end

-- How far an index is from the nearer end, and how many messages to read at once from there on.
local function reach(length, at, least)
  local far = math.max(math.min(at, length - at), 0)
  return math.max(least, math.min(MOST_STEP, math.floor(far / FAR))), far
end

-- Looks from an index on for the anchor; returns the index that comes next, what is there, and the messages before.
local function walk(key, length, at, size, text)
  local step, found = reach(length, at, 1), {}
  while work_left() do
    local most, far = reach(length, at, STEP)
    bytes_left = bytes_left - PASS * far
    local messages = redis.call('LRANGE', key, at, at + step - 1)
    if #messages == 0 then
      return at, ENDS, found
    end
    step = math.min(2 * step, most)
    local largest = 1
    for i = 1, #messages do
      local message = messages[i]
      count(message)
      if #message == size and string.sub(message, -MARK) == text then
        return at, ANCHOR, found
      end
      at, found[#found + 1], largest = at + 1, short(message), math.max(largest, #message)
    end
    step = largest > LARGEST and 1 or math.max(1, math.min(step, math.floor(bytes_left / largest)))
  end
  return at, MORE, found
end

-- Of up to so many messages from an index on, the last bytes of each, as far as they are told, and the bytes of all.
local function digest(key, length, index, way, most, last, bytes)
  local texts, size, step = {}, 0, reach(length, way > 0 and index or 0, 1)
  while #texts < most and bytes > 0 do
    local following, far = reach(length, way > 0 and index + #texts or #texts, STEP)
    bytes_left = bytes_left - PASS * far
    local from, to = index + way * #texts, index + way * (math.min(#texts + step, most) - 1)
    local messages = redis.call('LRANGE', key, math.min(from, to), math.max(from, to))
    if #messages == 0 then
      break
    end
    step = following
    for i = 1, #messages do
      local message = messages[way > 0 and i or #messages + 1 - i]
      count(message)
      bytes, size = bytes - #message, size + #message
      local told = short(message)
      told = type(told) == 'table' and told[2] or told
      texts[#texts + 1] = #told > last and string.sub(told, -last) or told
    end
  end
  texts[#texts + 1] = size
  return #texts - 1, redis.sha1hex(table.concat(texts, '\n'))
end

local function look(key, start, size, text, offset, most)
  local length = redis.call('LLEN', key)
  if not work_left() then
    return { length, 0, MORE, 0, '', 0, '', {} }
  end
  local at, state, found = walk(key, length, start, size, text)
  local tail, tail_digest, slice, slice_digest = 0, '', 0, ''
  if state == ANCHOR then
    tail, tail_digest = digest(key, length, -1, -1, math.min(TAIL, length - at), MARK, TAIL_BYTES)
    if most > 0 then -- one message at least, so that a round of comparisons ends
      most = math.max(math.min(most, messages_left), 1)
      slice, slice_digest = digest(key, length, at + offset, 1, most, LARGEST, math.max(bytes_left, 1))
    end
  end
  return { length, at - start, state, tail, tail_digest, slice, slice_digest, found }
end

local moves = redis.pcall('GET', KEYS[1]) -- a leader mends what is no counter
local answer = { type(moves) == 'string' and tonumber(moves) or 0 }
for i = 2, #KEYS do
  local j = FIRST + (i - 2) * EACH
  local start, size, offset, most = tonumber(ARGV[j]), tonumber(ARGV[j + 1]), tonumber(ARGV[j + 3]), tonumber(ARGV[j + 4])
  answer[i] = look(KEYS[i], start, size, ARGV[j + 2], offset, most)
  answer[i][9] = ARGV[8] == '1' and redis.call('LRANGE', KEYS[i], 0, -1) or nil
end
return answer
