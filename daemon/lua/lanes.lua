-- Put after the prelude. Limits of groups and functions: a lane is "g:<group>" or "f:<function>".
--
--   limits   lane -> "jobs|starts|period us", each may be empty. An operator's own field (the lane, "g:*", "f:*") wins
--            over the settings' ("s:" before it), a lane's over the one for all. "until:<lane>" -> ms: it was told to wait.
--   active   lane -> jobs that run now
--   windows  lane -> its starts of the last period
--   lanes    lane -> when its next job may be let in, ms; NEVER when only the end of one of its jobs can tell
--   lane:<lane>  what waits because the lane is full: id -> its ready score
--
-- A job goes into a lane when a claim finds it full, and back to its place when there is room: each at most once per
-- lane. Queues without limits of that kind never come here.
local LANE, LANES_END, NEVER = 140737488355328, 211106232532992, 9007199254740992

local known_lanes = {}
-- How many more jobs of a lane run after this call: in a busy group ends and starts mostly cancel out.
local change = {}
-- What `active` says, as far as it was read.
local running = {}
-- All of `limits` while they are few, false when they are many; and the limits there are as text, read.
local few_limits
local specs = {}
-- Of groups ("g") and of functions ("f"): whether any may have a limit, whether one may have its own, that of all others.
local kinds

local function lane_key(lane) return prefix .. 'lane:' .. lane end

local function read_running(names)
  local missing = {}
  for _, lane in ipairs(names) do
    if not running[lane] then
      running[lane] = 0
      missing[#missing + 1] = lane
    end
  end
  if #missing == 0 then return end
  for i, jobs in ipairs(redis.call('HMGET', active, unpack(missing))) do running[missing[i]] = tonumber(jobs or 0) end
end

local function read_limits()
  if few_limits ~= nil then return end
  few_limits = redis.call('HLEN', limits) <= 64 and {}
  local many = not few_limits
  kinds = { g = { limited = many, differ = many }, f = { limited = many, differ = many } }
  local found = few_limits and redis.call('HGETALL', limits) or {}
  for i = 1, #found, 2 do
    few_limits[found[i]] = found[i + 1]
    local told, lane = string.match(found[i], '^(until:)(.*)$')
    lane = lane or string.match(found[i], '^s:(.*)$') or found[i]
    local name = string.sub(lane, 1, 1)
    local kind = kinds[name]
    if kind then kind.limited, kind.differ = true, kind.differ or told ~= nil or lane ~= name .. ':*' end
  end
  for name, kind in pairs(few_limits and kinds or {}) do
    kind.all = few_limits[name .. ':*'] or few_limits['s:' .. name .. ':*']
  end
end

-- Until when a lane was told to wait, and its limits as text.
local function limits_of(lane)
  read_limits()
  local kind = kinds[string.sub(lane, 1, 1)]
  if not kind.differ then return nil, kind.all end
  local all = string.sub(lane, 1, 2) .. '*'
  if few_limits then
    local f = few_limits
    return f['until:' .. lane], f[lane] or f[all] or f['s:' .. lane] or f['s:' .. all]
  end
  local found = redis.call('HMGET', limits, 'until:' .. lane, lane, all, 's:' .. lane, 's:' .. all)
  return found[1], found[2] or found[3] or found[4] or found[5]
end

-- What a lane allows now: nil without a limit, else {jobs, starts, per, room, taken, wait ms or nil, window or nil}.
local function lane_of(lane)
  if known_lanes[lane] ~= nil then return known_lanes[lane] or nil end
  local till, spec = limits_of(lane)
  till = tonumber(till or nil)
  if till and till <= now then
    redis.call('HDEL', limits, 'until:' .. lane)
    till = nil
  end
  if not spec and not till then
    known_lanes[lane] = false
    return nil
  end
  spec = spec or '||'
  if not specs[spec] then
    local jobs, starts, per = string.match(spec, '^(%d*)|(%d*)|(%d*)$')
    specs[spec] = { tonumber(jobs), tonumber(starts), tonumber(per) }
  end
  local l = { jobs = specs[spec][1], starts = specs[spec][2], per = specs[spec][3], room = 1e15, taken = 0 }
  if l.jobs then
    if not running[lane] then read_running({ lane }) end
    l.room = l.jobs - running[lane] - (change[lane] or 0)
  end
  if l.starts then
    l.window = window(l.per, windows, lane)
    l.room = math.min(l.room, l.starts - l.window.total)
    -- When its oldest start, or the first it makes now, leaves the window.
    l.wait = math.max(1, math.ceil(((oldest_leaves(l.window, l.per) or now_us + l.per) - now_us) / 1000))
  end
  if till then l.room, l.wait = 0, till - now end
  known_lanes[lane] = l
  return l
end

-- What jobs of a group and function count in: {lane, ...}, with `text` for what a session holds of them.
local lists_of = {}

-- Of each record the lanes with a limit that its job counts in. Jobs of a group and function share a list: lanes are looked
-- at once in a call, and no string is made for each job.
local function lanes_of(records)
  read_limits()
  local lists, new = {}, {}
  for i = 1, #records do
    local name, group
    if kinds.f.limited then
      name, group = string.match(records[i] or '', '^arqd1 %d+ %d+ %d+ %d+ ([^\t\n]*)\t([^\t\n]*)')
    else
      name, group = '', string.match(records[i] or '', '^arqd1 %d+ %d+ %d+ %d+ [^\t\n]*\t([^\t\n]*)')
    end
    name, group = name or '', group or ''
    local of_group = lists_of[group]
    if not of_group then
      of_group = {}
      lists_of[group] = of_group
    end
    local list = of_group[name]
    if not list then
      list = {}
      if group ~= '' then list[1] = 'g:' .. group end
      if name ~= '' then list[#list + 1] = 'f:' .. name end
      of_group[name], new[#new + 1] = list, list
    end
    lists[i] = list
  end
  local names = {}
  for _, list in ipairs(new) do
    for _, lane in ipairs(list) do
      if known_lanes[lane] == nil then names[#names + 1] = lane end
    end
  end
  read_running(names)
  for _, list in ipairs(new) do
    local count = 0
    for i = 1, #list do
      local lane = list[i]
      list[i] = nil
      if lane_of(lane) then
        count = count + 1
        list[count] = lane
      end
    end
    list.text = count > 0 and '\t' .. table.concat(list, '\t') or ''
  end
  return lists
end

-- Lets up to `count` jobs of a lane back to their places; what has been removed since does not count. Two thousand are
-- looked at in one call; the next renewal looks at a lane again whose turn was used up by removed ones.
local function admit(lane, count)
  local key = lane_key(lane)
  for _ = 1, 4 do
    if count <= 0 then break end
    local found = redis.call('ZRANGE', key, 0, math.min(count, 500) - 1, 'WITHSCORES')
    if #found == 0 then break end
    for i = 1, #found, 2 do
      local at = tonumber(redis.call('ZSCORE', queue, found[i]) or nil)
      if at and at >= LANE and at < LANES_END then
        redis.call('ZADD', queue, found[i + 1], found[i])
        count = count - 1
      end
      redis.call('ZREM', key, found[i])
    end
  end
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', lanes, lane) end
end

-- So many jobs that counted in these lanes, as what a session holds names them, have ended or gave up their claim: the
-- lanes have room for the next.
local anything_waits
local function leave_lanes(text, count)
  if anything_waits == nil then anything_waits = redis.call('EXISTS', lanes) == 1 end
  for lane in string.gmatch(text, '\t([^\t]+)') do
    change[lane] = (change[lane] or 0) - count
    if anything_waits and redis.call('ZSCORE', lanes, lane) then redis.call('ZADD', lanes, num(now), lane) end
  end
end

-- Looks at the lanes whose time has come; `wait_for` learns when the next one is due.
local function open_lanes(wait_for)
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', lanes, '-inf', num(now), 'LIMIT', 0, 64)) do
    local l = lane_of(lane)
    local room = l and l.room or 1e15
    if room > 0 then admit(lane, math.min(room, 1000)) end
    if redis.call('ZSCORE', lanes, lane) then
      local due = NEVER
      if not l then
        due = now
      elseif l.wait then
        due = now + l.wait
      end
      redis.call('ZADD', lanes, num(due), lane)
    end
  end
  local first = redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) < NEVER then wait_for(first[2] - now) end
end

-- Puts a job into the first of its lanes that is full; false when none is.
local function stopped_by_lane(id, score, names)
  for i = 1, #names do
    local lane, l = names[i], known_lanes[names[i]]
    if l.room <= 0 then
      redis.call('ZADD', lane_key(lane), score, id)
      redis.call('ZADD', queue, num(LANE + now), id)
      redis.call('ZADD', lanes, 'LT', num(l.wait and now + l.wait or NEVER), lane)
      return true
    end
  end
  for i = 1, #names do
    local l = known_lanes[names[i]]
    l.room, l.taken = l.room - 1, l.taken + 1
  end
  return false
end

-- A job that was let through and then not claimed.
local function give_back(names)
  for i = 1, #names do
    local l = known_lanes[names[i]]
    l.room, l.taken = l.room + 1, l.taken - 1
  end
end

-- Counts what a claim took.
local function note_lanes()
  for lane, l in pairs(known_lanes) do
    if l and l.taken > 0 then
      change[lane] = (change[lane] or 0) + l.taken
      if l.starts then note_starts(l.window, l.per, l.taken, windows, lane) end
      l.taken = 0
    end
  end
end

-- Writes what this call changed; every script in which jobs leave or enter lanes ends with it.
local function write_lanes()
  local names, counts, none = {}, {}, {}
  for lane, more in pairs(change) do
    if more ~= 0 then names[#names + 1] = lane end
  end
  if #names == 0 then return end
  read_running(names)
  for _, lane in ipairs(names) do
    local jobs = running[lane] + change[lane]
    if jobs > 0 then
      counts[#counts + 1] = lane
      counts[#counts + 1] = num(jobs)
    else
      none[#none + 1] = lane
    end
  end
  if #counts > 0 then
    make_table(active, #names)
    redis.call('HSET', active, unpack(counts))
  end
  if #none > 0 then redis.call('HDEL', active, unpack(none)) end
end

-- Frees what a session holds and its process no longer runs: `crashed` counts a crash of what had begun (twice crashed
-- runs alone, `max_crashes` is handed out once more for its burial), otherwise the job just returns to its place.
local function release_orphan(session, id, entry, crashed, max_crashes)
  crashed = crashed and not string.find(entry, NOT_BEGUN_ENTRY)
  local score = tonumber(string.match(entry, '^%d+ (%S+)'))
  local count = crashed and redis.call('HINCRBY', crashes, id, 1) or 0
  tell(crashed and 'crashed' or 'released', id, name_of(id))
  if count > 1 and count < max_crashes then
    redis.call('ZADD', queue, num(SUSPECT + now), id)
  elseif crashed and score >= 0 then
    local record = get('arq:job:' .. id)
    place(id, level_of(score, record), record)
  else
    redis.call('ZADD', queue, num(score), id)
  end
  leave_lanes(entry, 1)
  redis.call('HDEL', held_key(session), id)
  redis.call('DEL', 'arq:in-progress:' .. id)
end
