-- Put after the prelude: how much may start now, by the queue's own limits, and the wake-up that says so.

-- A rate window is "<starts> <newest us>:<its starts> <older us>:<their starts> ...", the older ones oldest first: what
-- has aged is at one end and what is new at the other, so that a call need not read what is between.
local function window(per_us, key, field)
  local w = { total = 0, newest = 0, count = 0, older = '' }
  local text = redis.call('HGET', key, field)
  local total, newest, count, at = string.match(text or '', '^(%d+) (%d+):(%d+)()')
  newest = tonumber(newest)
  if not newest or newest <= now_us - per_us then return w end
  w.total, w.newest, w.count = tonumber(total), newest, tonumber(count)
  if newest > now_us then
    -- The clock went back: what lies ahead does not count.
    w.total, w.newest, w.count = 0, 0, 0
    for us, starts in string.gmatch(string.sub(text, at), '(%d+):(%d+)') do
      if tonumber(us) > now_us - per_us and tonumber(us) <= now_us then
        if w.newest > 0 then w.older = w.older .. ' ' .. num(w.newest) .. ':' .. w.count end
        w.total, w.newest, w.count = w.total + starts, tonumber(us), tonumber(starts)
      end
    end
    return w
  end
  local us, starts, after = string.match(text, '^ (%d+):(%d+)()', at)
  while us and tonumber(us) <= now_us - per_us do
    w.total, at = w.total - starts, after
    us, starts, after = string.match(text, '^ (%d+):(%d+)()', at)
  end
  w.older = string.sub(text, at)
  return w
end

-- When the oldest start leaves a window, us; nil when it is empty.
local function oldest_leaves(w, per_us)
  if w.total > 0 then return tonumber(string.match(w.older, '^ (%d+)') or w.newest) + per_us end
end

-- Notes `count` starts. Starts in the same 1/200 of the period share an entry at the later time: at most 201 entries,
-- and never a start too many.
local function note_starts(w, per_us, count, key, field)
  local grain = per_us / 200
  if w.total > 0 and math.floor(w.newest / grain) ~= math.floor(now_us / grain) then
    w.older, w.count = w.older .. ' ' .. num(w.newest) .. ':' .. w.count, 0
  end
  w.total, w.newest, w.count = w.total + count, now_us, w.count + count
  redis.call('HSET', key, field, w.total .. ' ' .. num(now_us) .. ':' .. w.count .. w.older)
end

local queue_window
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
    queue_window = queue_window or window(tonumber(c[3]), clock, 'starts')
    if c[2] - queue_window.total < free then
      free = math.max(0, c[2] - queue_window.total)
      local leaves = oldest_leaves(queue_window, c[3])
      if leaves then wait = math.max(1, math.ceil((leaves - now_us) / 1000)) end
    end
  end
  return free, wait, c
end

local function first_due()
  return redis.call('ZRANGEBYSCORE', queue, '-inf', '(' .. num(now + 1), 'LIMIT', 0, 1)[1]
end

-- The mark is there exactly when a job can be claimed now; true at the end of every script. (Where a stock worker runs
-- the only jobs that are due it is there for nothing, until a tick, which knows, says so with `due`.)
local function set_mark(free, due)
  if due ~= false and (free or room()) > 0 and (due or first_due()) then
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
