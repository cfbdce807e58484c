-- Put after the prelude: how much may start now, by the queue's own limits, and the wake-up that says so.

-- A rate window: "microsecond:starts" pairs of the last period, oldest first; the queue's own is clock.starts.
local function window(per_us, key, field)
  local entries, total = {}, 0
  for us, count in string.gmatch(redis.call('HGET', key, field) or '', '(%d+):(%d+)') do
    if tonumber(us) > now_us - per_us and tonumber(us) <= now_us then
      entries[#entries + 1] = { tonumber(us), tonumber(count) }
      total = total + count
    end
  end
  return entries, total
end

-- How many jobs may start now, and when the next may (ms from now, nil if that needs another event). The third value
-- is {paused or false, starts or false, period us}. An operator's limit ("own:") wins over the settings'; "" is none.
local function room()
  local c = redis.call('HMGET', conf, 'paused', 'rate', 'per', 'global', 'own:rate', 'own:per', 'own:global', 'until')
  if c[5] then c[2], c[3] = c[5] ~= '' and c[5], c[6] end
  if c[7] then c[4] = c[7] ~= '' and c[7] end
  if c[1] then return 0, nil, c end
  if c[8] and tonumber(c[8]) > now then return 0, c[8] - now, c end
  local free, wait = 1e15, nil
  if c[4] then free = math.max(0, c[4] - redis.call('ZCOUNT', queue, num(HELD), '(' .. num(SUSPECT))) end
  if c[2] and free > 0 then
    local entries, total = window(tonumber(c[3]), clock, 'starts')
    if c[2] - total < free then
      free = math.max(0, c[2] - total)
      if entries[1] then wait = math.max(1, math.ceil((entries[1][1] + c[3] - now_us) / 1000)) end
    end
  end
  return free, wait, c
end

-- Notes `count` starts. Starts in the same 1/200 of the period share an entry at the later time: at most 201 entries,
-- and never a start too many.
local function note_starts(per_us, count, key, field)
  local entries = window(per_us, key, field)
  local last = entries[#entries]
  local grain = per_us / 200
  if last and math.floor(last[1] / grain) == math.floor(now_us / grain) then
    last[1], last[2] = now_us, last[2] + count
  else
    entries[#entries + 1] = { now_us, count }
  end
  local parts = {}
  for i, entry in ipairs(entries) do parts[i] = num(entry[1]) .. ':' .. entry[2] end
  redis.call('HSET', key, field, table.concat(parts, ' '))
end

local function first_due()
  return redis.call('ZRANGEBYSCORE', queue, '-inf', '(' .. num(now + 1), 'LIMIT', 0, 1)[1]
end

-- The mark is there exactly when a job can be claimed now; true at the end of every script.
local function set_mark(free)
  if (free or room()) > 0 and first_due() then
    redis.call('ZADD', mark, 0, '1')
    return true
  end
  return false
end

local function set_suspects()
  if redis.call('EXISTS', crashes) == 1
    and redis.call('ZCOUNT', queue, num(SUSPECT), '(' .. num(BLOCKED)) > 0 then
    redis.call('ZADD', suspects, 0, '1')
  else
    redis.call('DEL', suspects)
  end
end
