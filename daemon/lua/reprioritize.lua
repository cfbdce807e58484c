-- Gives jobs another priority: a waiting one goes behind those that wait at that level, a delayed one keeps its time.
-- ARGV: 3 level, 4... ids
-- Returns one word per id: "changed", "active", "ended", or "not_found".
redis.call('DEL', mark)
local level = tonumber(ARGV[3])

-- The level in the record counts for a retry of a suspect and for a dead letter that is sent back.
local function rewrite(id, record)
  local _, stamp, timeout, deadline = header(record)
  if stamp then
    redis.call('SET', 'arq:job:' .. id, new_header(level, stamp, timeout, deadline) .. tail_of(record), 'KEEPTTL')
  end
end

local function move(id, score, record)
  if score >= LANE and score < LANES_END then
    -- It stays in its lane, and takes its new place when the lane has room.
    local place_then = num((issue(level, 1, group_of(record))))
    local name, group = names_of(record)
    if name then
      redis.call('ZADD', lane_key('f:' .. name), 'XX', place_then, id)
      redis.call('ZADD', lane_key('g:' .. group), 'XX', place_then, id)
    end
  elseif score >= SUSPECT then
    return
  elseif score < now + 1 then
    place(id, level, record)
  elseif score < HELD then
    later(id, math.floor(score), level)
  end
end

local words = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
  if score and (score >= HELD and score < SUSPECT or score == 1 and holder(id) or stock_held({ id })[id]) then
    words[#words + 1] = 'active'
  elseif score then
    local record = get('arq:job:' .. id)
    rewrite(id, record)
    move(id, score, record)
    weigh({ id })
    tell('reprioritized', id, function_of(record) .. '\t\t\tpriority ' .. num(level))
    words[#words + 1] = 'changed'
  else
    words[#words + 1] = redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 and 'ended' or 'not_found'
  end
end
set_mark()
write_events()
return words
