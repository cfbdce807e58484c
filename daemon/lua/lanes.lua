-- Put after the prelude. Limits of groups and functions: a lane is "g:<group>" or "f:<function>".
--
--   limits   lane -> "jobs|starts|period us", each may be empty. An operator's own field (the lane, "g:*", "f:*") wins
--            over the settings' ("s:" before it), a lane's over the one for all. "g:<kind>:*" is for the groups whose
--            names have that before their first colon: an operator's and the settings' stand behind the lane's own,
--            before "g:*". "until:<lane>" -> ms: it was told to wait.
--   active   lane -> jobs that run now
--   windows  lane -> its starts of the last period
--   lanes    lane -> when its next job may be let in, ms; NEVER when only the end of one of its jobs can tell
--   lane:<lane>  what waits because the lane is full: id -> its ready score
--
-- A job goes into a lane when a claim finds it full, and back to its place when there is room: each at most once per
-- lane. Queues without limits of that kind never come here.
local LANE, LANES_END, NEVER = 140737488355328, 211106232532992, 9007199254740992

-- How many more jobs of a lane run after this call: in a busy group ends and starts mostly cancel out.
local change = {}
-- What `active` says, as far as it was read.
local running = {}
-- All of `limits` while they are few, false when they are many; and the limits there are as text, read.
local few_limits, specs
-- Of groups ("g") and of functions ("f"): whether any may have a limit, whether one may have its own, that of all others.
local kinds
-- Of lanes that were looked at: how many more of their jobs may start (false: without a limit), their limit {jobs, starts,
-- period us}; of some the ms until more may, and of those with a rate its window and how many starts this call adds to it.
-- They are tables of numbers, and not a table for each lane: a call may look at a hundred lanes.
local room_of, limit_of, wait_of, window_of, starts_of

local function lane_key(lane) return prefix .. 'lane:' .. lane end

local function read_running(names)
  local missing = {}
  for _, lane in ipairs(names) do
    if lane and not running[lane] then
      running[lane] = 0
      missing[#missing + 1] = lane
    end
  end
  if #missing == 0 then return end
  for i, jobs in ipairs(redis.call('HMGET', active, unpack(missing))) do running[missing[i]] = tonumber(jobs or 0) end
end

local function read_limits()
  if kinds then return end
  room_of, limit_of, wait_of, window_of, starts_of, specs = {}, {}, {}, {}, {}, {}
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
  local kind = kinds[string.sub(lane, 1, 1)]
  if not kind.differ then return nil, kind.all end
  local all, some = string.sub(lane, 1, 2) .. '*', string.match(lane, '^g:[^:]+:')
  -- One without a kind is looked for three times, which costs no command more.
  local own = some and some .. '*' or lane
  local set = some and 's:' .. own or lane
  if few_limits then
    local f = few_limits
    return f['until:' .. lane], f[lane] or f[own] or f[set] or f[all] or f['s:' .. lane] or f['s:' .. all]
  end
  local found = redis.call('HMGET', limits, 'until:' .. lane, lane, own, set, all, 's:' .. lane, 's:' .. all)
  return found[1], found[2] or found[3] or found[4] or found[5] or found[6] or found[7]
end

local function limit_in(spec)
  if not specs[spec] then
    local jobs, starts, per = string.match(spec, '^(%d*)|(%d*)|(%d*)$')
    specs[spec] = { tonumber(jobs), tonumber(starts), tonumber(per) }
  end
  return specs[spec]
end

-- Finds out what a lane allows now: gives `room_of` it.
local function look_at(lane)
  read_limits()
  local room = room_of[lane]
  if room ~= nil then return room end
  local till, spec = limits_of(lane)
  till = tonumber(till or nil)
  if till and till <= now then
    redis.call('HDEL', limits, 'until:' .. lane)
    till = nil
  end
  if not spec and not till then
    room_of[lane] = false
    return false
  end
  local limit = limit_in(spec or '||')
  limit_of[lane], room = limit, 1e15
  if limit[1] then
    if not running[lane] then read_running({ lane }) end
    room = limit[1] - running[lane] - (change[lane] or 0)
  end
  if limit[2] then
    local w = window(limit[3], windows, lane)
    window_of[lane], starts_of[lane] = w, 0
    room = math.min(room, limit[2] - w.total)
    -- When its oldest start, or the first it makes now, leaves the window.
    wait_of[lane] = math.max(1, math.ceil(((oldest_leaves(w, limit[3]) or now_us + limit[3]) - now_us) / 1000))
  end
  if till then room, wait_of[lane] = 0, till - now end
  room_of[lane] = room
  return room
end

-- Whether a lane may be full or become so when `count` jobs more start. Where all of a kind have one limit, and not so many
-- jobs run at all, none can.
local function may_be_full(count)
  local least = 1e15
  for _, kind in pairs(kinds) do
    local limit = limit_in(kind.all or '||')
    if kind.differ or limit[2] then return true end
    least = math.min(least, limit[1] or least)
  end
  return redis.call('ZCOUNT', queue, num(HELD), '(' .. num(SUSPECT)) + count > least
end

-- What the jobs of these records count in: {groups = the lane of each job's group, functions = that of its function,
-- false where there is no limit; names = its function, false where its record has a time limit of its own;
-- limited = whether a lane may stop any}.
local function lanes_of(records)
  read_limits()
  local by_group, by_function = kinds.g.limited, kinds.f.limited
  local groups, functions, names, usual = {}, {}, {}, USUAL .. '([^\t\n]*)'
  for i = 1, #records do
    local name, group = string.match(records[i] or '', usual)
    names[i] = name or false
    if not name then
      name, group = names_of(records[i])
      name, group = name or '', group or ''
    end
    groups[i] = by_group and group ~= '' and 'g:' .. group
    functions[i] = by_function and name ~= '' and 'f:' .. name
  end
  local limited = may_be_full(#records)
  if limited then
    read_running(groups)
    read_running(functions)
    for i = 1, #records do
      groups[i] = groups[i] and look_at(groups[i]) and groups[i]
      functions[i] = functions[i] and look_at(functions[i]) and functions[i]
    end
  end
  return { groups = groups, functions = functions, names = names, limited = limited }
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

-- A job that counted in these lanes (tabs between, as what a session holds names them) has ended or gave up its claim.
local function leave_lanes(text)
  if not string.find(text, '\t', 1, true) then
    change[text] = (change[text] or 0) - 1
    return
  end
  for lane in string.gmatch(text, '[^\t]+') do change[lane] = (change[lane] or 0) - 1 end
end

-- Lanes that jobs have left in this call have room for the next.
local function tell_lanes()
  if redis.call('EXISTS', lanes) == 0 then return end
  for lane, more in pairs(change) do
    if more < 0 and redis.call('ZSCORE', lanes, lane) then redis.call('ZADD', lanes, num(now), lane) end
  end
end

-- Looks at the lanes whose time has come; `wait_for` learns when the next one is due.
local function open_lanes(wait_for)
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', lanes, '-inf', num(now), 'LIMIT', 0, 64)) do
    local room = look_at(lane)
    local due = not room and now or wait_of[lane] and now + wait_of[lane] or NEVER
    room = room or 1e15
    if room > 0 then admit(lane, math.min(room, 1000)) end
    if redis.call('ZSCORE', lanes, lane) then redis.call('ZADD', lanes, num(due), lane) end
  end
  local first = redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) < NEVER then wait_for(first[2] - now) end
end

-- Puts a job into the first of its lanes that is full; false when none is.
local function stopped_by_lane(id, score, of_group, of_function)
  local full = of_group and room_of[of_group] <= 0 and of_group or of_function and room_of[of_function] <= 0 and of_function
  if full then
    redis.call('ZADD', lane_key(full), score, id)
    redis.call('ZADD', queue, num(LANE + now), id)
    redis.call('ZADD', lanes, 'LT', num(wait_of[full] and now + wait_of[full] or NEVER), full)
    return true
  end
  if of_group then room_of[of_group] = room_of[of_group] - 1 end
  if of_function then room_of[of_function] = room_of[of_function] - 1 end
  return false
end

-- One job more runs in a lane.
local function enter_lane(lane)
  change[lane] = (change[lane] or 0) + 1
  if starts_of[lane] then starts_of[lane] = starts_of[lane] + 1 end
end

-- Notes the starts in lanes with a rate.
local function note_lanes()
  for lane, starts in pairs(starts_of or {}) do
    if starts > 0 then note_starts(window_of[lane], limit_of[lane][3], starts, windows, lane) end
    starts_of[lane] = 0
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
      counts[#counts + 1], counts[#counts + 2] = lane, jobs
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
  local tab = string.find(entry, '\t', 1, true)
  if tab then leave_lanes(string.sub(entry, tab + 1)) end
  redis.call('HDEL', held_key(session), id)
  redis.call('DEL', 'arq:in-progress:' .. id)
end
