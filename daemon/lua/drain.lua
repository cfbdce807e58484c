-- Removes the first jobs that wait or are delayed, with all they left; who waits for their results is told.
-- ARGV: 3 at most so many (500)
-- Returns how many were removed; fewer than asked for when no more are left.
redis.call('DEL', mark)
local left = math.min(tonumber(ARGV[3]), 500)
local removed = 0

local function leave_lane(id)
  local name, group = names_of(get('arq:job:' .. id))
  if name then
    redis.call('ZREM', lane_key('f:' .. name), id)
    redis.call('ZREM', lane_key('g:' .. group), id)
  end
end

-- Parents come first, so that no child's removal makes one a dead letter. A stock abort() files a held job under score 1,
-- until the next tick: these come last, and stay.
local blocked = { num(BLOCKED), '(' .. num(LANE) }
for _, band in ipairs({ blocked, { '-inf', '(1' }, { '(1', '(' .. num(HELD) }, { num(SUSPECT), '+inf' }, { '1', '1' } }) do
  local passed = 0
  while left > 0 do
    local found = redis.call('ZRANGEBYSCORE', queue, band[1], band[2], 'WITHSCORES', 'LIMIT', passed, left)
    if #found == 0 then break end
    local ended, ids = {}, {}
    for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
    local theirs = stock_held(ids)
    for i = 1, #found, 2 do
      local id, score = found[i], tonumber(found[i + 1])
      if theirs[id] or score == 1 and holder(id) then
        passed = passed + 1
      else
        if score >= LANE and score < LANES_END then leave_lane(id) end
        ended[#ended + 1] = { 'a', 0, '0', name_of(id), '', id, '' }
      end
    end
    finish(ended, 'removed')
    left, removed = left - #ended, removed + #ended
  end
end
set_mark()
set_suspects()
write_events()
return removed
