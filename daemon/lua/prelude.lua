-- Put before every script. KEYS are daemon/keys.py SCRIPT_KEYS followed by arq's abort set.
-- ARGV[1] the family's key prefix "{email}:"; ARGV[2] "" or a test's clock in ms.
--
-- A job's score in `queue` says its state (daemon/keys.py has the keys beside it):
--   READY    -2^52 + level*2^48 + tag     waiting; tags are issued here, so equal milliseconds keep their order
--   INBOX    0 .. now                     a stock producer's job, or a delayed one that came due
--   LATER    due ms + level/16            delayed or waiting for a retry; no fraction: a stock producer's
--   HELD     2^45 + claim ms              active
--   SUSPECT  2^46 + ms                    crashed twice, runs alone
--   LANE     2^47 + ms                    its group or its function is at a limit (lua/lanes.lua)
-- The bands from 2^46 + 2^45 and from 2^47 + 2^46 are reserved for jobs waiting for children or for a worker.
local queue, mark, suspects, workers, clock, conf = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local completed, dead, aborted, expired = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local crashes, progress, history, waiters, totals = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local tags, limits, active, windows, lanes, dedup = KEYS[16], KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21]
local abort_set = KEYS[22]
local prefix = ARGV[1]

local READY, LEVEL, STEP = -4503599627370496, 281474976710656, 64
local HELD, SUSPECT, BLOCKED = 35184372088832, 70368744177664, 105553116266496
local DAY = 86400000

local now_us
if ARGV[2] == '' then
  local t = redis.call('TIME')
  now_us = t[1] * 1000000 + t[2]
else
  now_us = ARGV[2] * 1000
end
local now = math.floor(now_us / 1000)

-- Lua's ".." rounds large numbers; Redis needs them whole.
local function num(x) return string.format('%.17g', x) end

local function session_key(session) return prefix .. 'session:' .. session end
local function held_key(session) return prefix .. 'held:' .. session end
local function control_key(session) return prefix .. 'ctl:' .. session end

-- MGET reads a key of a wrong type as missing, where GET would stop the family for ever.
local function get(key) return redis.call('MGET', key)[1] end

local function header(record)
  if not record then return nil end
  local level, stamp, timeout, deadline = string.match(record, '^arqd1 (%d+) (%d+) (%d+) (%d+) ')
  if level then return tonumber(level), stamp, math.min(tonumber(timeout), 1e12), tonumber(deadline) end
end

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

local function group_of(record)
  return record and string.match(record, '^arqd1 [^\t\n]*\t([^\n]*)\n') or ''
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
  local last = math.max(virtual_time(level, issued), tonumber(redis.call('HGET', tags, field) or 0))
  local step = STEP / tonumber(redis.call('HGET', conf, 'weight:' .. group) or 1)
  redis.call('HSET', tags, field, num(last + step * count))
  redis.call('HSET', clock, 'tag' .. level, num(math.max(issued, last + step * count)))
  return READY + level * LEVEL + last + step, step
end

-- Gives jobs their places in the order they are listed: {id, level, group} each. Adds to `scores` for a ZADD.
local function give_places(jobs, scores)
  local places, steps, lists = {}, {}, {}
  for _, job in ipairs(jobs) do
    local key = job[2] .. ':' .. job[3]
    local list = lists[key]
    if list then list[#list + 1] = job else lists[key] = { job } end
  end
  for key, list in pairs(lists) do places[key], steps[key] = issue(list[1][2], #list, list[1][3]) end
  for _, job in ipairs(jobs) do
    local key = job[2] .. ':' .. job[3]
    scores[#scores + 1] = num(places[key])
    scores[#scores + 1] = job[1]
    places[key] = places[key] + steps[key]
  end
end

-- ---------------------------------------------------------------- limits

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

-- ---------------------------------------------------------------- wake-up

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

-- ---------------------------------------------------------------- clock

-- Notes that the server is seen alive. After an outage (a gap while a known session lived, or a restarted server)
-- or a clock that went back, nothing is reaped for one lease: living workers must be able to renew first. A gap seen
-- by a new session on a server that was up all the time is no outage: the other workers are dead.
local function observe(lease, known)
  local c = redis.call('HMGET', clock, 'seen', 'quiet')
  local seen, quiet = tonumber(c[1]) or now, tonumber(c[2]) or 0
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
  end
  if gap > 200 or gap < 0 or not c[1] then redis.call('HSET', clock, 'seen', num(now)) end
  return math.min(quiet, now + lease)
end

-- ---------------------------------------------------------------- states

local function later(id, due, level)
  redis.call('ZADD', queue, num(math.min(due, HELD - 1) + level / 16), id)
end

local function place(id, level, record)
  redis.call('ZADD', queue, num((issue(level, 1, group_of(record)))), id)
end

local function add_history(id, line)
  if line == '' then return end
  local old = redis.call('HGET', history, id)
  local text = old and (old .. '\n' .. line) or line
  while #text > 16384 and string.find(text, '\n', 1, true) do
    text = string.sub(text, string.find(text, '\n', 1, true) + 1)
  end
  redis.call('HSET', history, id, text)
end

-- Dedup keys: a hash of "k:<key>" -> "<end of its window in ms, 0: while its job lives> <id>" and, as long as the job
-- lives, "j:<id>" -> key; beside it a sorted set of the keys with a window by its end.
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

local INDEX = { c = completed, b = dead, a = aborted, e = expired }
local TOTAL = { c = 'completed', b = 'failed', a = 'aborted', e = 'expired', r = 'retried', l = 'released', w = 'released' }

-- The one way a job ends: result, index, waiters, then every trace of its run. `ended` is a list of
-- {kind, id, result, keep, keep as text}: keep in ms, 0 keeps nothing, -1 for ever. A dead letter keeps its payload and history.
local function finish(ended)
  if #ended == 0 then return end
  local ids, gone, indexed = {}, {}, { c = {}, b = {}, a = {}, e = {} }
  local forget, stamp = {}, num(now)
  for i, job in ipairs(ended) do
    local kind, id, result, keep = job[1], job[2], job[3], job[4]
    ids[i] = id
    gone[#gone + 1] = 'arq:in-progress:' .. id
    if kind ~= 'b' then
      gone[#gone + 1] = 'arq:job:' .. id
      gone[#gone + 1] = 'arq:retry:' .. id
      forget[#forget + 1] = id
    end
    if result ~= '' and keep ~= 0 then
      if keep < 0 then
        redis.call('SET', 'arq:result:' .. id, result)
      else
        redis.call('SET', 'arq:result:' .. id, result, 'PX', job[5] or num(keep))
      end
      local list = indexed[kind]
      list[#list + 1] = stamp
      list[#list + 1] = id
    end
  end
  for kind, list in pairs(indexed) do
    if #list > 0 then redis.call('ZADD', INDEX[kind], unpack(list)) end
  end
  -- A reused id may stand in another index, whose trimming would take this result.
  if #indexed.b > 0 or redis.call('EXISTS', aborted, expired) > 0 then
    for kind, index in pairs(INDEX) do
      local others = {}
      for i, job in ipairs(ended) do
        if job[1] ~= kind then others[#others + 1] = ids[i] end
      end
      if #others > 0 then redis.call('ZREM', index, unpack(others)) end
    end
  end
  if redis.call('EXISTS', waiters) == 1 then
    local waiting = redis.call('HMGET', waiters, unpack(ids))
    for i, sessions in ipairs(waiting) do
      if sessions then
        for session in string.gmatch(sessions, '%S+') do
          local reply = prefix .. 'reply:' .. session
          redis.call('RPUSH', reply, ended[i][2] .. '\n' .. ended[i][3])
          redis.call('PEXPIRE', reply, 60000)
        end
      end
    end
    redis.call('HDEL', waiters, unpack(ids))
  end
  redis.call('ZREM', queue, unpack(ids))
  redis.call('UNLINK', unpack(gone))
  redis.call('HDEL', progress, unpack(ids))
  redis.call('HDEL', crashes, unpack(ids))
  if #forget > 0 then redis.call('HDEL', history, unpack(forget)) end
  if redis.call('EXISTS', abort_set) == 1 then redis.call('ZREM', abort_set, unpack(ids)) end
  if redis.call('EXISTS', dedup) == 1 then free_dedup(ended) end
end

-- Drops ended jobs from an index with all they left, at most `count` (oldest first).
local function forget(index, ids)
  if #ids == 0 then return 0 end
  local gone = {}
  for _, id in ipairs(ids) do
    gone[#gone + 1] = 'arq:result:' .. id
    if index == dead then
      gone[#gone + 1] = 'arq:job:' .. id
      gone[#gone + 1] = 'arq:retry:' .. id
    end
  end
  redis.call('UNLINK', unpack(gone))
  redis.call('ZREM', index, unpack(ids))
  if index == dead then redis.call('HDEL', history, unpack(ids)) end
  return #ids
end

local function trim(index, count, age)
  if count >= 0 then
    local excess = math.min(redis.call('ZCARD', index) - count, 256)
    if excess > 0 then forget(index, redis.call('ZRANGE', index, 0, excess - 1)) end
  end
  if age >= 0 then
    forget(index, redis.call('ZRANGEBYSCORE', index, '-inf', num(now - age), 'LIMIT', 0, 256))
  end
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
