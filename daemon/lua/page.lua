-- A page of the queue or of an index, from a score and an id on, with the two ends of each job's record or result.
-- ARGV: 3 "queue" | "completed" | "dead" | "aborted" | "expired" | "cause:<cause>", 4 and 5 the lowest and highest score (as
--   ZRANGEBYSCORE takes the highest, the lowest inclusive), 6 "1" for the highest first, 7 score ("" to begin) and 8 id of the last
--   one seen, which may be gone, 9 at most so many, 10 bytes of the beginning (0: neither end), 11 bytes of the end (at least 1)
-- Returns {id, score, beginning, end, ...}, or {id, score, ...}. Reads only; costs the logarithm of the queue's size.
local key = ({ queue = queue, completed = completed, dead = dead, aborted = aborted, expired = expired })[ARGV[3]]
  or prefix .. ARGV[3]
local lowest, highest, down, count = ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[9])
local ranges = ARGV[10] == '0' and {} or { { 0, ARGV[10] - 1 }, { -ARGV[11], -1 } }

-- Redis orders equal scores by bytes; Lua's "<" by the server's locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- How many stand before a score and id. Half a queue may have the same score, so it is searched and not walked.
local function rank_of(score, id)
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', key, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if before(redis.call('ZRANGE', key, middle, middle)[1], id) then low = middle + 1 else high = middle end
  end
  return low, redis.call('ZRANGE', key, low, low)[1] == id
end

local first = lowest == '-inf' and 0 or redis.call('ZCOUNT', key, '-inf', '(' .. lowest)
local last = redis.call('ZCOUNT', key, '-inf', highest) - 1
if ARGV[7] ~= '' then
  local rank, there = rank_of(ARGV[7], ARGV[8])
  if down then last = math.min(last, rank - 1) else first = math.max(first, there and rank + 1 or rank) end
end
if down then first = math.max(first, last - count + 1) else last = math.min(last, first + count - 1) end
if first > last then return {} end

local found = redis.call('ZRANGE', key, first, last, 'WITHSCORES')
local kind = key == queue and 'arq:job:' or 'arq:result:'
local page = {}
for i = 1, #found, 2 do
  local at = down and #found - i or i
  page[#page + 1], page[#page + 2] = found[at], found[at + 1]
  for _, range in ipairs(ranges) do
    -- A key of a wrong type is like one that is gone.
    local part = redis.pcall('GETRANGE', kind .. found[at], range[1], range[2])
    page[#page + 1] = type(part) == 'string' and part or ''
  end
end
return page
