-- Put after the prelude. Dedup keys: a hash of "k:<key>" -> "<end of its window in ms, 0: while its job lives> <id>"
-- and, as long as the job lives, "j:<id>" -> key; beside it a sorted set of the keys with a window by its end.
local dedup_ends = prefix .. 'dedup:ends'

local function dedup_entry(key)
  local till, id = string.match(redis.call('HGET', dedup, 'k:' .. key) or '', '^(%d+) (.*)$')
  return tonumber(till), id
end

-- Drops keys whose window has ended, at most `count`.
local function trim_dedup(count)
  local over = redis.call('ZRANGEBYSCORE', dedup_ends, '-inf', num(now), 'LIMIT', 0, count)
  for _, key in ipairs(over) do
    local till = dedup_entry(key)
    if till and till > 0 and till <= now then redis.call('HDEL', dedup, 'k:' .. key) end
  end
  if #over > 0 then redis.call('ZREM', dedup_ends, unpack(over)) end
end

-- Gives keys to jobs: {key, id, window ms or 0} each. What has ended goes faster than what is new comes.
local function keep_dedup(kept)
  trim_dedup(math.min(2 * #kept + 16, 4000))
  for _, entry in ipairs(kept) do
    local key, id, span = entry[1], entry[2], entry[3]
    local till = span > 0 and num(now + span) or '0'
    redis.call('HSET', dedup, 'k:' .. key, till .. ' ' .. id, 'j:' .. id, key)
    if span > 0 then redis.call('ZADD', dedup_ends, till, key) end
  end
end

-- Frees the keys of jobs that end. A window goes on unless its job was aborted or removed.
local function free_dedup(ended)
  local fields = {}
  for i, job in ipairs(ended) do fields[i] = 'j:' .. job[2] end
  for i, key in ipairs(redis.call('HMGET', dedup, unpack(fields))) do
    local till, id
    if key then till, id = dedup_entry(key) end
    if id == ended[i][2] and (till == 0 or ended[i][1] == 'a') then redis.call('HDEL', dedup, 'k:' .. key) end
  end
  redis.call('HDEL', dedup, unpack(fields))
end
