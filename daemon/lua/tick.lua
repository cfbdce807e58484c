-- One round of a worker: settle what ended, reap one dead session, promote what came due, claim.
-- ARGV: 3 session, 4 call number, 5 jobs wanted, 6 "1" if this process runs nothing at all (it may take a suspect),
--   7 lease ms, 8 default timeout ms, 9 max crashes, 10 completed kept (count, -1 no bound), 11 and their age ms,
--   12 poll ms where stock workers share the queue (0: none do, and it polls only if stock producers were seen in the
--   last hour, every 500);
--   13 how many statistics of these outcomes follow, a field and an amount each (lua/events.lua): added if none of them
--     is refused; then the outcomes. Those beside each other with the same kind, claim number, b and c are told together:
--     kind, claim number, b, c, how many, and of each its id, enqueue stamp, a and its event's detail.
--     "c" complete, "a" aborted, "e" expired, "b" dead letter: a result, b keep (ms, or "age ms, count" of its own:
--        lua/ends.lua), c history line; of "b" then the lines of its cause (lua/causes.lua)
--     "r" retry: a delay ms, b ended tries, c history line
--     "l" release: a delay ms or -1 (back in its place), c note
--     "w" told to wait: a delay ms, b who waits ("queue", "group", "function"), c note
--     "p" parked, this process cannot run it: a need, c note
-- Returns {"sync"} (this session is unknown here), {"stale"} (an older call than one seen), or
--   {"ok", now, wait ms, "1" if this process should drain for a suspect, {refused ids},
--    {id, record or nil, score, 0 or what is unusual: {ended tries, crashes, "1" if to be aborted, its last failure's
--     history line or 0, why it is to be failed by a child or ''}, ...}, "1" if this call wrote to the outbox}.
local session, n, wanted, alone = ARGV[3], tonumber(ARGV[4]), math.min(tonumber(ARGV[5]), 128), ARGV[6] == '1'
local lease, default_timeout, max_crashes = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local keep_count, keep_age, poll = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local held = held_key(session)

local last = redis.call('HGET', session_key(session), 'n')
if not last then return { 'sync' } end
if n <= tonumber(last) then return { 'stale' } end

-- DEL first: a script whose first write frees memory runs through on a full server.
redis.call('DEL', mark, suspects)
redis.call('HSET', session_key(session), 'n', n)
local quiet, stock_seen = observe(lease, true)

-- Whether there is any of what few queues have. They are looked for one by one only if so, or if this call itself may
-- have made one: whatever does sets it.
local unusual = redis.call('EXISTS', tags, limits, active, lanes, parked, crashes, flows, abort_set) > 0
local function there(key) return unusual and redis.call('EXISTS', key) == 1 end

-- A job waits for those its worker claimed before it: with groups a call brings few, so that a group's first job starts
-- at once behind the many of another.
local grouped, limited, FEW = there(tags), there(limits), 32
if grouped then wanted = math.min(wanted, FEW) end

local wait = 60000
local function wait_for(ms) if ms < wait then wait = math.max(ms, 0) end end

-- ---------------------------------------------------------------- settle
local refused, ended, unheld, counts, changed = {}, {}, {}, {}, {}
local first_settle = 14 + 2 * ARGV[13]
if #ARGV >= first_settle then
  local counted = there(active)

  -- An outcome counts when this claim still holds the job. When nobody holds it (a failover rolled the claim back) a
  -- completion of the same enqueueing is accepted, since the work is done.
  local function accepted(kind, id, holder, stamp, entry)
    if entry then
      if string.find(entry, holder, 1, true) ~= 1 then return false end
      -- Only a job that goes back to the queue needs its score: a string made for each would cost more than the rest.
      return INDEX[kind] and 0 or tonumber(string.match(entry, '^%S+ (%S+)'))
    end
    if kind ~= 'c' then return false end
    local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
    if not score or score >= HELD and score < SUSPECT or stock_held({ id })[id] then return false end
    local record = get('arq:job:' .. id)
    local _, enqueued = header(record)
    return record and (enqueued or '') == stamp and score
  end

  -- Somebody was told to wait: its queue, group or function starts nothing before.
  local function hold(who, record, till)
    local name, group = string.match(record or '', '^arqd1 %d+ %d+ %d+ %d+ ([^\t\n]*)\t([^\n]*)\n')
    local lane = who == 'group' and group and group ~= '' and 'g:' .. group or who == 'function' and name and 'f:' .. name
    local key, field = limits, lane and 'until:' .. lane
    if not lane then key, field = conf, 'until' end
    if till > tonumber(redis.call('HGET', key, field) or 0) then redis.call('HSET', key, field, num(till)) end
    limited = limited or lane ~= false
    if lane then known_lanes[lane], few_limits = nil, nil end
  end

  -- A job that has not ended: back to the queue, or parked.
  local function put_back(kind, id, score, a, b, c, detail)
    unusual = true
    local delay = tonumber(a)
    tell(TOLD[kind], id, detail)
    redis.call('DEL', 'arq:in-progress:' .. id)
    if kind == 'p' then
      park(id, score, a, session)
    elseif delay < 0 then
      redis.call('ZADD', queue, num(score), id)
    else
      later(id, now + delay, level_of(score, score >= 0 and get('arq:job:' .. id)))
    end
    if kind == 'w' then hold(b, get('arq:job:' .. id), now + delay) end
    if kind == 'r' then
      redis.call('SET', 'arq:retry:' .. id, b)
      redis.call('HDEL', progress, id)
      add_history(id, c)
      changed[#changed + 1] = id
    elseif c ~= '' then
      redis.call('HSET', progress, id, '0 ' .. c)
    end
  end

  local function settle(kind, id, score, a, b, c, detail)
    if not INDEX[kind] then return put_back(kind, id, score, a, b, c, detail) end
    local cause
    if kind == 'b' then
      redis.call('PERSIST', 'arq:job:' .. id)
      local line
      line, cause = string.match(c, '^([^\n]*)\n?(.*)$')
      add_history(id, line)
    end
    ended[#ended + 1] = { kind, id, a, tonumber(b), b, detail, cause }
  end

  local ids, at = {}, first_settle
  while at <= #ARGV do
    local count = tonumber(ARGV[at + 4])
    for i = at + 5, at + 1 + 4 * count, 4 do ids[#ids + 1] = ARGV[i] end
    at = at + 5 + 4 * count
  end
  local entries, j = redis.call('HMGET', held, unpack(ids)), 0
  at = first_settle
  while at <= #ARGV do
    local kind, b, c, count = ARGV[at], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
    local holder, settled = ARGV[at + 1] .. ' ', 0
    for i = at + 5, at + 1 + 4 * count, 4 do
      local id = ARGV[i]
      j = j + 1
      local score = accepted(kind, id, holder, ARGV[i + 1], entries[j])
      if not score then
        refused[#refused + 1] = id
      else
        settled = settled + 1
        if counted and entries[j] then leave_lanes(entries[j]) end
        unheld[#unheld + 1] = id
        settle(kind, id, score, ARGV[i + 2], b, c, ARGV[i + 3])
      end
    end
    if settled > 0 then counts[kind] = (counts[kind] or 0) + settled end
    at = at + 5 + 4 * count
  end
  finish(ended)
  weigh(changed)
  if #unheld > 0 then redis.call('HDEL', held, unpack(unheld)) end
  for kind, count in pairs(counts) do redis.call('HINCRBY', totals, TOTAL[kind], count) end
  if counts.c then trim(completed, keep_count, keep_age) end
  if counts.a then trim(aborted, -1, keep_age) end
  if counts.e then trim(expired, -1, keep_age) end
  if counts.b then trim_dead() end
  keep_within_budget()
end

if #refused == 0 then count_up(ARGV, 14, first_settle - 1) end

-- ---------------------------------------------------------------- reap
local function reap()
  local first = redis.call('ZRANGE', workers, 0, 1, 'WITHSCORES')
  local at = first[1] == session and 3 or 1
  local victim, lease_end = first[at], tonumber(first[at + 1])
  if not victim then return end
  if lease_end >= now then return wait_for(lease_end - now + 1) end
  if now < quiet then return wait_for(quiet - now) end
  unusual = true
  local found = redis.call('HSCAN', held_key(victim), 0, 'COUNT', 128)[2]
  for i = 1, math.min(#found, 512), 2 do release_orphan(victim, found[i], found[i + 1], true, max_crashes) end
  if redis.call('HLEN', held_key(victim)) == 0 then
    redis.call('ZREM', workers, victim)
    redis.call('DEL', session_key(victim), control_key(victim))
  end
  wait_for(0)
end
reap()

-- ---------------------------------------------------------------- promote
local aborting = there(abort_set)

-- The first jobs of a range, without those that stock workers run; of these it passes 2,000 at most.
local function free_jobs(low, high, count)
  local function page(at, size)
    return redis.call('ZRANGEBYSCORE', queue, low, high, 'WITHSCORES', 'LIMIT', num(at), num(size))
  end
  if poll == 0 then return page(0, count) end
  local found, passed, size = {}, 0, math.max(count, 64)
  while #found < 2 * count and passed < 2000 do
    local jobs, ids = page(passed + #found / 2, size), {}
    for i = 1, #jobs, 2 do ids[#ids + 1] = jobs[i] end
    local theirs = stock_held(ids)
    for i = 1, #jobs, 2 do
      if theirs[jobs[i]] then
        passed = passed + 1
      elseif #found < 2 * count then
        found[#found + 1], found[#found + 2] = jobs[i], jobs[i + 1]
      end
    end
    if #ids < size then break end
  end
  return found
end

-- A stock worker that has read a job's score, and is about to take it, must look again when the score changes: it
-- watches the in-progress key.
local function disturb(jobs)
  if poll == 0 or #jobs == 0 then return end
  local keys, values = {}, {}
  for i, job in ipairs(jobs) do
    keys[i] = 'arq:in-progress:' .. job[1]
    values[2 * i - 1], values[2 * i] = keys[i], ''
  end
  redis.call('MSET', unpack(values))
  redis.call('DEL', unpack(keys))
end

-- A stock producer's entry: its payload must not vanish after arq's day, unless it asked for a shorter life.
local function adopt(id, score)
  local key = 'arq:job:' .. id
  local ttl = redis.call('PTTL', key)
  if ttl > 0 and now + ttl < score + DAY - 60000 then
    local record = get(key)
    local level, stamp, timeout = header(record)
    if level then
      local tail = string.match(record, '^arqd1 %d+ %d+ %d+ %d+ (.*)$')
      redis.call('SET', key, table.concat({ 'arqd1', level, stamp, num(timeout), num(now + ttl), tail }, ' '))
    end
  elseif ttl > 0 then
    redis.call('PERSIST', key)
  end
end

-- When the next job comes due, ms; false when it has to be looked for. Whether more are due than get their places now.
local next_due, more_due = false, false
local function first_later(from)
  local first = redis.call('ZRANGEBYSCORE', queue, from, '(' .. HELD_TEXT, 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2]) or HELD
end

local function promote()
  next_due = first_later(0)
  if next_due >= now + 1 then return end
  next_due = false
  local most = math.max(2 * wanted, 16)
  local due = free_jobs(0, '(' .. num(now + 1), most)
  if #due == 0 then return end
  more_due = #due == 2 * most
  local ready, stock = {}, false
  for i = 1, #due, 2 do
    local id, score = due[i], tonumber(due[i + 1])
    local level = math.floor((score % 1) * 16 + 0.5)
    local taken = false
    if level == 0 then
      stock = true
      level = default_level()
      if score == 1 then taken = stock_abort(id, aborting) end
      if not taken then adopt(id, score) end
    end
    if not taken then ready[#ready + 1] = { id, level, '' } end
  end
  if grouped and #ready > 0 then
    local keys = {}
    for i, job in ipairs(ready) do keys[i] = 'arq:job:' .. job[1] end
    local records = redis.call('MGET', unpack(keys))
    for i, job in ipairs(ready) do job[3] = group_of(records[i]) end
  end
  local scores = {}
  give_places(ready, scores)
  if #scores > 0 then redis.call('ZADD', queue, unpack(scores)) end
  disturb(ready)
  if stock then
    stock_seen = now
    redis.call('HSET', clock, 'stock', num(now))
  end
end
promote()
if aborting then tell_stock_aborts() end

-- ---------------------------------------------------------------- claim
if there(lanes) then open_lanes(wait_for) end
if wanted > 0 and there(parked) and unpark(session, wanted) then wait_for(0) end
local free, rate_wait, limit = room()
local claims = {}

-- A header without a time limit of its own. Finding it makes no strings, which are what a claim mostly costs, but the
-- function's name, which is always the same few.
local USUAL = '^arqd1 %d+ %d+ 0 %d+ ([^\t\n]*)\t'

local function last_failure(id)
  return string.match(redis.call('HGET', history, id) or '', '([^\n]*)$')
end

-- `records` and the lanes each job counts in (`names`) come from a claim that had to look at them before.
local function claim(found, names, records)
  local ids, keys, tries = {}, {}, {}
  for i = 1, #found, 2 do
    local id = found[i]
    ids[#ids + 1] = id
    keys[#keys + 1] = 'arq:job:' .. id
    tries[#tries + 1] = 'arq:retry:' .. id
  end
  if #ids == 0 then return 0 end
  local counts_of = redis.call('MGET', unpack(tries))
  records = records or redis.call('MGET', unpack(keys))
  local crashed = there(crashes) and redis.call('HMGET', crashes, unpack(ids)) or {}
  local states = there(flows) and redis.call('HMGET', flows, unpack(ids)) or {}
  -- Formatting a number costs as much as a command: what is the same for all is written once.
  local token, held_at, usual = session .. ':' .. n, num(HELD + now), num(default_timeout + 10000)
  local claim_number = n .. ' '
  local bytes, scores, holding, at = 0, {}, {}, #claims
  local tokens, others = {}, {}
  for i, id in ipairs(ids) do
    local record = records[i]
    bytes = bytes + (record and #record or 0)
    if i > 1 and bytes > 1048576 then break end
    local asked = aborting and redis.call('ZSCORE', abort_set, id)
    if asked then
      local _, stamp = header(record)
      if stamp and tonumber(asked) < tonumber(stamp) then
        redis.call('ZREM', abort_set, id)
        asked = false
      end
    end
    local life = usual
    local name = record and string.match(record, USUAL)
    if record and not name then
      local _, _, timeout = header(record)
      if timeout and timeout > 0 then life = num(timeout + 10000) end
      name = function_of(record)
    end
    name = name or ''
    if not asked then tell('started', id, counts_of[i] and name .. '\t' .. (tonumber(counts_of[i]) or 0) + 1 or name) end
    if life == usual then
      tokens[#tokens + 1], tokens[#tokens + 2] = 'arq:in-progress:' .. id, token
    else
      set_keys({ 'arq:in-progress:' .. id, token }, life)
    end
    scores[2 * i - 1], scores[2 * i] = held_at, id
    holding[2 * i - 1], holding[2 * i] = id, claim_number .. found[2 * i]
    if names and #names[i] > 0 then holding[2 * i] = holding[2 * i] .. '\t' .. table.concat(names[i], '\t') end
    claims[at + 1], claims[at + 2], claims[at + 3] = id, record, found[2 * i]
    claims[at + 4] = 0
    if counts_of[i] or crashed[i] or asked or states[i] then
      claims[at + 4] = { counts_of[i] or '0', crashed[i] or '0', asked and '1' or '0',
        counts_of[i] and last_failure(id) or 0, states[i] and failed_by_child(states[i]) or '' }
    end
    at = at + 4
  end
  if #tokens > 0 then set_keys(tokens, usual) end
  redis.call('ZADD', queue, unpack(scores))
  make_table(held, #ids)
  redis.call('HSET', held, unpack(holding))
  return #scores / 2
end

-- Whether a job waits that this call has not taken; nil: it was not looked.
local more

local function claim_first(k)
  local found = free_jobs('-inf', '(0', k + 1)
  more = #found > 2 * k
  found[2 * k + 1], found[2 * k + 2] = nil, nil
  local taken = claim(found)
  more = more or taken < #found / 2
  return taken
end

-- Claims what no lane stops; what one stops goes into it. At most a thousand jobs are looked at in one call.
local function claim_limited(k)
  local started, looked = 0, 0
  while started < k and looked < 1000 do
    local found = free_jobs('-inf', '(0', k - started)
    if #found == 0 then break end
    local keys, free_to_go, names, records = {}, {}, {}, {}
    for i = 1, #found, 2 do keys[#keys + 1] = 'arq:job:' .. found[i] end
    local all = redis.call('MGET', unpack(keys))
    local lanes_of_all = lanes_of(all)
    for i = 1, #keys do
      local id, score, of_job = found[2 * i - 1], found[2 * i], lanes_of_all[i]
      if stopped_by_lane(id, score, of_job) then
        disturb({ { id } })
      else
        free_to_go[#free_to_go + 1] = id
        free_to_go[#free_to_go + 1] = score
        names[#names + 1] = of_job
        records[#records + 1] = all[i]
      end
    end
    looked = looked + #keys
    local taken = claim(free_to_go, names, records)
    started = started + taken
    for i = taken + 1, #names do give_back(names[i]) end
    if taken < #names then break end
  end
  note_lanes()
  return started
end

local drain, started = '0', 0
local function suspect()
  if not there(crashes) then return end
  return redis.call('ZRANGEBYSCORE', queue, num(SUSPECT), '(' .. num(BLOCKED), 'WITHSCORES', 'LIMIT', 0, 1)
end
local first_suspect = suspect()
local isolated = first_suspect and first_suspect[1] and alone and wanted > 0 and free > 0
if isolated then
  started = claim(first_suspect)
elseif wanted > 0 and free > 0 then
  started = (limited and claim_limited or claim_first)(math.min(wanted, free))
end
if limit[2] and started > 0 then note_starts(queue_window, tonumber(limit[3]), started, clock, 'starts') end
if first_suspect and first_suspect[1] and not isolated then
  local since = first_suspect[2] - SUSPECT
  if now - since > lease and limit[1] == false then
    local key = prefix .. 'drainer'
    redis.call('SET', key, session, 'NX', 'PX', num(2 * lease))
    if redis.call('GET', key) == session then drain = '1' end
  elseif limit[1] == false then
    wait_for(lease - (now - since) + 1)
  end
end

write_lanes()
write_events()

-- ---------------------------------------------------------------- wake-up
if #claims > 0 and (limit[2] or limit[4]) then free, rate_wait = room() end
-- Nothing is left if all that was due has got its place and all that had one was taken.
local due = more
if more_due and not more then due = nil end
if poll > 0 then due = free_jobs('-inf', '(' .. num(now + 1), 1)[1] or false end
if set_mark(free, due) then wait_for(0) end
if first_suspect and first_suspect[1] then set_suspects() end
if rate_wait and first_due() then wait_for(rate_wait) end
next_due = next_due or first_later(num(now + 1))
if next_due < HELD and not limit[1] then wait_for(math.floor(next_due) - now) end
if poll > 0 then
  wait_for(poll)
elseif now - stock_seen < 3600000 then
  wait_for(500)
end
return { 'ok', now, wait, drain, refused, claims, sent and '1' or '0' }
