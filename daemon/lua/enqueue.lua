-- Adds jobs, all or (on a full server) none.
-- ARGV[3] "1" when this call repeats one whose reply was lost; then seven per job:
--   id, level (0: the family's), "now" | "in" | "at", ms (delay or due time), timeout ms, expires ms from now, tail
-- Returns one number per job: 1 added, 0 a job with this id exists.
local added, records, scores, ready = {}, {}, {}, {}
local fallback
local seen = {}
for i = 4, #ARGV, 7 do
  local id, level, when, ms = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
  local tail = ARGV[i + 6]
  local new = 1
  if seen[id] or redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    new = 0
    if ARGV[3] == '1' and not seen[id] then
      local stored = get('arq:job:' .. id)
      if stored and string.sub(stored, -#tail) == tail then new = 1 end
    end
  else
    if level == 0 then
      fallback = fallback or default_level()
      level = fallback
    end
    local due = when == 'in' and now + ms or when == 'at' and ms or now
    local deadline = ARGV[i + 5] == '0' and '0' or num(now + ARGV[i + 5])
    records[#records + 1] = 'arq:job:' .. id
    records[#records + 1] = table.concat({ 'arqd1', level, num(now), ARGV[i + 4], deadline, tail }, ' ')
    if due > now then
      scores[#scores + 1] = num(math.min(due, HELD - 1) + level / 16)
      scores[#scores + 1] = id
    else
      ready[#ready + 1] = { id, level, string.match(tail, '^[^\t\n]*\t([^\n]*)\n') or '' }
    end
  end
  seen[id] = true
  added[#added + 1] = new
end
if #records == 0 then return added end

-- MSET comes first: a full server refuses it before anything is written.
for i = 1, #records, 2000 do
  redis.call('MSET', unpack(records, i, math.min(i + 1999, #records)))
end
local soonest = #scores > 0 and redis.call('ZRANGEBYSCORE', queue, num(now + 1), '(' .. num(HELD), 'WITHSCORES', 'LIMIT', 0, 1)
give_places(ready, scores)
for i = 1, #scores, 2000 do
  redis.call('ZADD', queue, 'NX', unpack(scores, i, math.min(i + 1999, #scores)))
end

-- Workers sleep until the next job they knew of: wake one when an earlier one came.
local earlier = false
if soonest then
  local first = redis.call('ZRANGEBYSCORE', queue, num(now + 1), '(' .. num(HELD), 'WITHSCORES', 'LIMIT', 0, 1)
  earlier = first[1] ~= nil and first[1] ~= soonest[1]
end
if not set_mark() and earlier then redis.call('ZADD', mark, 0, '1') end
return added
