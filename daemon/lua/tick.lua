-- One round of a worker: settle what ended, reap one dead session, promote what came due, claim.
-- ARGV: 3 session, 4 call number, 5 jobs wanted (-1: none, and only the outcomes matter: lua/settle_one.lua), 6 how many of
--   them begin at once (the others: lua/begin.lua),
--   7 "1" if this process runs nothing at all (it may take a suspect),
--   8 lease ms, 9 default timeout ms, 10 max crashes, 11 completed kept (count, -1 no bound), 12 and their age ms,
--   13 poll ms where stock workers share the queue (0: none do, and it polls only if stock producers were seen in the
--   last hour, every 500);
--   14 how many statistics of these outcomes follow, a field and an amount each (lua/events.lua): added if none of them
--     is refused; then the outcomes. Those beside each other with the same kind, claim number, b, c and event's detail
--     are told together: these, their enqueue stamps with blanks between, how many, and of each its id and a.
--     "c" complete, "a" aborted, "e" expired, "b" dead letter: a result, b keep (ms, or "age ms, count" of its own:
--        lua/ends.lua), c of "c" "1" if the claim found no count of ended tries, of "b" history line and then the lines of its
--        cause (lua/causes.lua)
--     "r" retry: a delay ms, b ended tries, c history line
--     "l" release: a delay ms or -1 (back in its place), c note
--     "w" told to wait: a delay ms, b who waits ("queue", "group", "function"), c note
--     "p" parked, this process cannot run it: a need, c note
-- Returns {"sync"} (this session is unknown here), {"stale"} (an older call than one seen), or
--   {"ok", now, wait ms (-1: it was not looked for more work), "1" if this process should drain for a suspect, {refused ids},
--    {id, record or nil, score of each claim}, {which claim (0 is the first) is unusual, {ended tries, crashes, "1" if to
--     be aborted, its last failure's history line or 0, why it is to be failed by a child or ''}, ...},
--    "1" if this call wrote to the outbox}.
local session, n, wanted, alone = ARGV[3], tonumber(ARGV[4]), math.min(tonumber(ARGV[5]), 128), ARGV[7] == '1'
local lease, default_timeout, max_crashes = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local keep_count, keep_age, poll = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local held = held_key(session)

-- Number and time (us) of its last call, number of the call that registered it.
local last = redis.call('HMGET', session_key(session), 'n', 'at', 'sync')
if not last[1] then return { 'sync' } end
if n <= tonumber(last[1]) then return { 'stale' } end

-- DEL first: a script whose first write frees memory runs through on a full server.
redis.call('DEL', mark, suspects)
redis.call('HSET', session_key(session), 'n', n, 'at', num(now_us))
local quiet, stock_seen = observe(lease, session)

-- How many there are of what few queues have, of those that were not found yet: only then are they looked for one by one.
local unfound, found_there = redis.call('EXISTS', tags, limits, active, lanes, parked, crashes, flows, abort_set), {}
local function there(key)
  if unfound == 0 then return found_there[key] or false end
  if found_there[key] == nil then
    found_there[key] = redis.call('EXISTS', key) == 1
    if found_there[key] then unfound = unfound - 1 end
  end
  return found_there[key]
end
-- Whatever in this call may make one: what was not there may be by now.
local function look_anew() unfound, found_there = 8, {} end

local grouped, limited = there(tags), there(limits)
-- An hour, since whatever happens is told of, and what was not heard is found by a renewal of the lease.
local wait = 3600000
local function wait_for(ms) if ms < wait then wait = math.max(ms, 0) end end

-- ---------------------------------------------------------------- settle
local refused, runs, unheld, counts, changed = {}, {}, {}, {}, {}
local first_settle = 15 + 2 * ARGV[14]
if #ARGV >= first_settle then
  local counted, registered = there(active), tonumber(last[3] or 0)

  -- An outcome counts when this claim still holds the job. When nobody holds it (a failover rolled the claim back) a
  -- completion of the same enqueueing is accepted, since the work is done.
  local function done_unheld(id, stamps, number)
    local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
    if not score or score >= HELD and score < SUSPECT or stock_held({ id })[id] then return false end
    local record = get('arq:job:' .. id)
    local _, enqueued = header(record)
    for _ = 2, number do stamps = string.match(stamps, ' (.*)') end
    if not record or (enqueued or '') ~= string.match(stamps, '^[^ ]*') then return false end
    redis.call('DEL', 'arq:retry:' .. id)
    return true
  end

  -- Somebody was told to wait: its queue, group or function starts nothing before.
  local function hold(who, record, till)
    local name, group = names_of(record)
    local lane = who == 'group' and group and group ~= '' and 'g:' .. group or who == 'function' and name and 'f:' .. name
    local key, field = limits, lane and 'until:' .. lane
    if not lane then key, field = conf, 'until' end
    if till > tonumber(redis.call('HGET', key, field) or 0) then redis.call('HSET', key, field, num(till)) end
    limited = limited or lane ~= false
  end

  -- A job that has not ended: back to the queue, or parked.
  local function put_back(kind, id, entry, a, b, c, detail)
    look_anew()
    local score = tonumber(string.match(entry, '^%S+ (%S+)'))
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
      -- Its process has lived to tell: crashes count in a row.
      redis.call('HDEL', crashes, id)
      add_history(id, c)
      changed[#changed + 1] = id
    elseif c ~= '' then
      redis.call('HSET', progress, id, '0 ' .. c)
    end
  end

  local ids, at = {}, first_settle
  while at <= #ARGV do
    local last = at + 6 + 2 * ARGV[at + 6]
    for i = at + 7, last, 2 do ids[#ids + 1] = ARGV[i] end
    at = last + 1
  end
  local entries, j = redis.call('HMGET', held, unpack(ids)), 0
  at = first_settle
  while at <= #ARGV do
    local kind, b, c, detail, stamps = ARGV[at], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
    local holder, last, before = ARGV[at + 1] .. ' ', at + 6 + 2 * ARGV[at + 6], #unheld
    local run, length = INDEX[kind] and { kind, tonumber(b) or false, b, detail, '' }, 5
    -- Not of a claim that `sync` may have made good: the job may have had a try elsewhere meanwhile.
    if kind == 'c' and c == '1' and ARGV[at + 1] + 0 > registered then run.untried = true end
    if kind == 'b' then c, run[5] = string.match(c, '^([^\n]*)\n?(.*)$') end
    for i = at + 7, last, 2 do
      local id = ARGV[i]
      j = j + 1
      local entry = entries[j]
      local accepted
      if entry then
        accepted = string.find(entry, holder, 1, true) == 1
      else
        accepted = kind == 'c' and done_unheld(id, stamps, (i - at - 5) / 2)
      end
      if not accepted then
        refused[#refused + 1] = id
      else
        local tab = counted and entry and string.find(entry, '\t', 1, true)
        if tab then leave_lanes(string.sub(entry, tab + 1)) end
        unheld[#unheld + 1] = id
        if not run then
          put_back(kind, id, entry, ARGV[i + 1], b, c, detail)
        else
          if kind == 'b' then
            redis.call('PERSIST', 'arq:job:' .. id)
            add_history(id, c)
          end
          run[length + 1], run[length + 2] = id, ARGV[i + 1]
          length = length + 2
        end
      end
    end
    if length > 5 then runs[#runs + 1] = run end
    if #unheld > before then counts[kind] = (counts[kind] or 0) + #unheld - before end
    at = last + 1
  end
  finish(runs)
  weigh(changed)
  if #unheld > 0 then redis.call('HDEL', held, unpack(unheld)) end
  for kind, count in pairs(counts) do redis.call('HINCRBY', totals, TOTAL[kind], count) end
  if counts.c then trim(completed, keep_count, keep_age) end
  if counts.a then trim(aborted, -1, keep_age) end
  if counts.e then trim(expired, -1, keep_age) end
  if counts.b then trim_dead() end
end

if #refused == 0 then count_up(ARGV, 15, first_settle - 1) end

-- ---------------------------------------------------------------- reap
local function reap()
  local first = redis.call('ZRANGE', workers, 0, 1, 'WITHSCORES')
  local at = first[1] == session and 3 or 1
  local victim, lease_end = first[at], tonumber(first[at + 1])
  if not victim then return end
  if lease_end >= now then
    -- Before that there is another renewal, which looks.
    if lease_end - now <= lease / 2 then wait_for(lease_end - now + 1) end
    return
  end
  if now < quiet then return wait_for(quiet - now) end
  look_anew()
  -- Where some were taken out before, a page may be empty.
  local cursor, found = 0, nil
  repeat
    cursor, found = unpack(redis.call('HSCAN', held_key(victim), cursor, 'COUNT', 128))
  until #found > 0 or cursor == '0'
  for i = 1, math.min(#found, 512), 2 do release_orphan(victim, found[i], found[i + 1], true, max_crashes) end
  if redis.call('HLEN', held_key(victim)) == 0 then
    redis.call('ZREM', workers, victim)
    redis.call('HINCRBY', totals, 'lost', 1)
    redis.call('DEL', session_key(victim), control_key(victim))
  end
  wait_for(0)
end
reap()
