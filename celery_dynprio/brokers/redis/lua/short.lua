-- What is told of a message: all of it, or of a large one what matters, so that its body does not cross the network.
--
-- Put before the scripts that read. teller(large, largest, mark) returns a function that tells a message as it is; one of more
-- than "large" bytes by its size and the rest, which is what comes behind its body; and one of more than "largest" by its
-- size and its last bytes, which are so many as "mark" says.
local MOST_REST = 4000

local function teller(large, largest, mark)
  -- What comes behind the body, from the quote on that ends it; nil where that cannot be told at once: a first quote ends the
  -- text if no backslash is before it. Protocol 1 has the task in the body.
  local function rest_of(message)
    local _, before = string.find(message, '^{"body": ?"')
    local quote = before and string.find(message, '"', before + 1, true)
    if not quote or string.byte(message, quote - 1) == 92 then
      return nil
    end
    local size = #message - quote + 1
    local rest = size >= mark and size <= MOST_REST and string.sub(message, quote)
    return rest and string.find(rest, '"task"', 1, true) and rest
  end
  return function(message)
    if #message <= large then
      return message
    elseif #message > largest then
      return { #message, string.sub(message, -mark) }
    end
    local rest = rest_of(message)
    return rest and { #message, rest } or message
  end
end
