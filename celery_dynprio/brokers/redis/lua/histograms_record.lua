-- Add what workers counted to the histograms.
--
-- KEYS  1 hash of field -> numbers, with a blank between two
-- ARGV  1 how many fields the hash may have, 2 for how many seconds it is kept after the last call
--       then for each entry: field, the field that counts instead of it in a full hash, numbers
-- Returns how many entries were counted in the other field.
--
-- Keeps: each number only grows. A value that is not as many numbers as are added to it counts as absent. A full hash
-- takes no more fields but the others, of which there are as many as levels.
local most, other = tonumber(ARGV[1]), 0

local function numbers(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do
    local number = tonumber(word)
    if not (number and number >= 0 and number <= 1e15) then
      return {}
    end
    found[#found + 1] = number
  end
  return found
end

redis.call('EXPIRE', KEYS[1], ARGV[2]) -- who may not do this would leave a hash for ever
for i = 3, #ARGV, 3 do
  local field, value = ARGV[i], redis.call('HGET', KEYS[1], ARGV[i])
  if not value and redis.call('HLEN', KEYS[1]) >= most then
    field, other = ARGV[i + 1], other + 1
    value = redis.call('HGET', KEYS[1], field)
  end
  local sums, added = numbers(value), numbers(ARGV[i + 2])
  if #sums == #added then
    for j = 1, #sums do
      added[j] = string.format('%.15g', sums[j] + added[j])
    end
  end
  redis.call('HSET', KEYS[1], field, table.concat(added, ' '))
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return other
