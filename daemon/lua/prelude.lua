-- Put before every script. KEYS are daemon/keys.py SCRIPT_KEYS followed by arq's abort set; a call that names only the first
-- has the others made (daemon/lua/linked.py).
-- ARGV[1] the family's key prefix "{email}:"; ARGV[2] "" or a test's clock in ms.
--
-- A job's score in `queue` says its state (daemon/keys.py has the keys beside it):
--   READY    -2^52 + level*2^48 + tag     waiting; tags are issued here, so equal milliseconds keep their order
--   INBOX    0 .. now                     a stock producer's job, or a delayed one that came due
--   LATER    due ms + level/16            delayed or waiting for a retry; no fraction: a stock producer's
--   HELD     2^45 + claim ms              active
--   SUSPECT  2^46 + ms                    crashed twice, runs alone
--   BLOCKED  2^46 + 2^45 + ms             waits for its children (lua/flows.lua)
--   LANE     2^47 + ms                    its group or its function is at a limit (lua/lanes.lua)
--   PARKED   2^47 + 2^46 + ms             no worker could run it (lua/parked.lua)
local queue, mark, suspects, workers, clock, conf = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local completed, dead, aborted, expired = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local crashes, progress, history, waiters, totals = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local tags, limits, active, windows, lanes, dedup = KEYS[16], KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21]
local parked, receipts, logs, flows, parents, outbox = KEYS[22], KEYS[23], KEYS[24], KEYS[25], KEYS[26], KEYS[27]
local abort_set = KEYS[28]
local prefix = ARGV[1]

local READY, LEVEL, STEP = -4503599627370496, 281474976710656, 64
local HELD, SUSPECT, BLOCKED = 35184372088832, 70368744177664, 105553116266496
local DAY = 86400000
-- Stands in what a session holds behind the score of a job that it has claimed and not begun.
local NOT_BEGUN = ' ~'
-- An entry with it, up to it: groups, which come behind a tab, may be called anything.
local NOT_BEGUN_ENTRY = '^([^\t]*) ~'
-- As Redis wants it.
local HELD_TEXT = '35184372088832'

local now_us
if ARGV[2] == '' then
  local t = redis.call('TIME')
  now_us = t[1] * 1000000 + t[2]
else
  now_us = ARGV[2] * 1000
end
local now = math.floor(now_us / 1000)

-- Lua's ".." rounds large numbers; Redis needs them whole. A whole one is written in half the time (as a C long, see
-- lua/sync.lua).
local function num(x)
  return string.format(x % 1 == 0 and '%d' or '%.17g', x)
end

local function session_key(session) return prefix .. 'session:' .. session end
local function held_key(session) return prefix .. 'held:' .. session end
local function control_key(session) return prefix .. 'ctl:' .. session end

-- Sets keys, {key, value, ...}, that all live so many ms ("": until they are deleted): a command for all of them on
-- servers that have one, Valkey 9.1 and Redis 8.4. Not in a cluster: when Valkey 9.1 moves a slot at once, what that command
-- sets meanwhile does not come along.
local function set_keys(values, life)
  if life == '' then
    redis.call('MSET', unpack(values))
    return
  end
  local valkey, version = redis.VALKEY_VERSION_NUM, redis.REDIS_VERSION_NUM or 0
  if abort_set == 'arq:abort' and (valkey or version) >= (valkey and 0x90100 or 0x80400) then
    values[#values + 1], values[#values + 2] = 'PX', life
    -- Not of a user who may not call it.
    if type(redis.pcall('MSETEX', num(#values / 2 - 1), unpack(values))) == 'number' then return end
    values[#values], values[#values - 1] = nil, nil
  end
  for i = 1, #values, 2 do redis.call('SET', values[i], values[i + 1], 'PX', life) end
end

-- A hash is searched field by field until it has had a long value: from then on it is a real table. Called before many
-- fields are written.
local function make_table(hash, fields)
  if fields <= 8 then return end
  redis.call('HSET', hash, '', '-----------------------------------------------------------------')
  redis.call('HDEL', hash, '')
end

-- MGET reads a key of a wrong type as missing, where GET would stop the family for ever.
local function get(key) return redis.call('MGET', key)[1] end

local function default_level()
  return tonumber(redis.call('HGET', conf, 'priority') or 5)
end

local function level_of(score, record)
  local level
  if score < 0 then
    level = math.floor((score - READY) / LEVEL)
  elseif score < HELD then
    level = math.floor((score % 1) * 16 + 0.5)
  else
    level = header(record) or 0
  end
  if level < 1 then level = default_level() end
  return math.min(level, 10)
end

-- Whether any job of this family ever had a group: until then places are a plain counter.
local function has_groups()
  return redis.call('EXISTS', tags) == 1
end

-- Virtual time of a level: one step before the job that runs next; with none waiting, the last tag issued.
local function virtual_time(level, issued)
  local low = READY + level * LEVEL
  local head = redis.call('ZRANGEBYSCORE', queue, num(low), '(' .. num(low + LEVEL), 'WITHSCORES', 'LIMIT', 0, 1)
  return head[2] and head[2] - low - STEP or issued
end

-- Of each level as this call found it: those that come together take turns, too.
local found_time = {}

-- The first of `count` places at a level, and the distance from each to the next. Start-time fair queuing: groups take
-- turns, since a group's next place is one step after its last one, or after virtual time if it had nothing waiting.
-- Jobs without a group are the group "".
local function issue(level, count, group)
  if group == '' and not has_groups() then
    local last = redis.call('HINCRBY', clock, 'tag' .. level, STEP * count)
    return READY + level * LEVEL + last - STEP * (count - 1), STEP
  end
  local issued = tonumber(redis.call('HGET', clock, 'tag' .. level) or 0)
  -- What waits without a group when the first group comes keeps its order.
  redis.call('HSETNX', tags, level .. ':', num(issued))
  local field = level .. ':' .. group
  found_time[level] = found_time[level] or virtual_time(level, issued)
  local last = math.max(found_time[level], tonumber(redis.call('HGET', tags, field) or 0))
  local step = STEP / tonumber(redis.call('HGET', conf, 'weight:' .. group) or 1)
  redis.call('HSET', tags, field, num(last + step * count))
  redis.call('HSET', clock, 'tag' .. level, num(math.max(issued, last + step * count)))
  return READY + level * LEVEL + last + step, step
end

-- Puts a job behind those of its level and group: `lines` are {level, group, id, id, ...} each.
local function line_up(lines, id, level, group)
  local line = lines.last
  if not (line and line[1] == level and line[2] == group) then
    local key = level .. ':' .. group
    line = lines[key]
    if not line then
      line = { level, group }
      lines[key], lines[#lines + 1] = line, line
    end
    lines.last = line
  end
  line[#line + 1] = id
end

-- Gives the jobs in such lines their places. Adds to `scores` for a ZADD.
local function give_lined_up(lines, scores)
  local last = #scores
  for _, line in ipairs(lines) do
    local place, step = issue(line[1], #line - 2, line[2])
    for i = 3, #line do
      last = last + 2
      scores[last - 1], scores[last] = num(place), line[i]
      place = place + step
    end
  end
end

-- The same of jobs in the order they are listed: {id, level, group} each.
local function give_places(jobs, scores)
  local lines = {}
  for _, job in ipairs(jobs) do line_up(lines, job[1], job[2], job[3]) end
  give_lined_up(lines, scores)
end

-- ---------------------------------------------------------------- clock

-- The clock went back by -gap: leases and waits that were given by the one before end by this one. Else who died meanwhile
-- would keep its jobs until then, and a queue, a group or a function that was told to wait would wait until then, too.
local function shift_ends(seen, gap)
  for _, session in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. num(seen), '+inf')) do
    redis.call('ZINCRBY', workers, num(gap), session)
  end
  for _, key in ipairs({ conf, limits }) do
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      local till = string.find(all[i], '^until') and tonumber(all[i + 1])
      if till and till > seen then redis.call('HSET', key, all[i], num(till + gap)) end
    end
  end
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', lanes, '(' .. num(now), '+inf')) do
    redis.call('ZADD', lanes, num(now), lane)
  end
end

-- Notes that the server is seen alive; gives until when nothing is reaped, and when a stock producer was last seen. After
-- an outage (a gap while a known session lived, or a restarted server) or a clock that went back, nothing is reaped for
-- one lease: living workers must be able to renew first. A gap seen by a new session on a server that was up all the time
-- is no outage: the other workers are dead. `known` is the session, if it is known; a renewal of its own is proof, too, that
-- the server was there (lua/rest.lua notes nothing else).
local function observe(lease, known)
  local c = redis.call('HMGET', clock, 'seen', 'quiet', 'stock')
  local seen, quiet = tonumber(c[1]) or now, tonumber(c[2]) or 0
  if known and now - seen > lease / 2 then
    seen = math.max(seen, (tonumber(redis.call('ZSCORE', workers, known) or nil) or 0) - lease)
  end
  local gap = now - seen
  local outage = gap < -1000
  if gap > lease / 2 then
    outage = known
    if not outage then
      local ok, info = pcall(redis.call, 'INFO', 'server')
      local up = ok and string.match(info, 'uptime_in_seconds:(%d+)')
      outage = up and up * 1000 < gap
    end
  end
  if outage then
    quiet = now + lease
    redis.call('HSET', clock, 'quiet', num(quiet))
    if gap < 0 then shift_ends(seen, gap) end
  end
  if now - (c[1] or 0) > 200 or gap < 0 then redis.call('HSET', clock, 'seen', num(now)) end
  return math.min(quiet, now + lease), tonumber(c[3] or 0)
end

-- ---------------------------------------------------------------- states

local function later(id, due, level)
  redis.call('ZADD', queue, num(math.min(due, HELD - 1) + level / 16), id)
end

local function place(id, level, record)
  redis.call('ZADD', queue, num((issue(level, 1, group_of(record)))), id)
end

-- Who holds a job: session and claim number. Its in-progress token says where to look; without one, every session is
-- asked.
local function holder(id)
  local function claim_of(session)
    local entry = redis.call('HGET', held_key(session), id)
    return entry and string.match(entry, '^%d+')
  end
  local session = string.match(get('arq:in-progress:' .. id) or '', '^(%x+):%d+$')
  local n = session and claim_of(session)
  if n then return session, n end
  for _, other in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
    n = claim_of(other)
    if n then return other, n end
  end
end

-- Keeps a request to abort for a job's next claim; the fraction says that its present holder was told.
local function note_abort(id, at)
  redis.call('ZADD', abort_set, num(math.floor(at) + 0.5), id)
end

local function tell_abort(session, n, id)
  redis.call('RPUSH', control_key(session), 'abort ' .. n .. ' ' .. id)
  redis.call('PEXPIRE', control_key(session), 60000)
end
-- End of the prelude.
