-- Put after tick.lua: the second half of its round. What came due gets its place, jobs are claimed, and whoever waits for
-- some is woken.

-- A job waits for those its worker claimed before it, up to two calls. With groups a call brings a turn of all of them, but
-- what the worker has lately worked off in 1.2 milliseconds, at least 20 jobs, where they are few: so a group's first job
-- starts at once behind the many of another. A call that would hardly be shorter for it is left as it is. (One field of `tags`
-- is for what has no group.)
if grouped and wanted > 20 then
  local pace = (#unheld + #refused) / math.max(now_us - (last[2] or 0), 1)
  local turn = math.max(20, math.floor(1200 * pace))
  if wanted > turn then
    turn = math.max(turn, redis.call('HLEN', tags) - 1)
    if turn < 0.75 * wanted then wanted = turn end
  end
end

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
      redis.call('SET', key, new_header(level, stamp, timeout, now + ttl) .. tail_of(record))
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
    local level = math.min(math.floor((score % 1) * 16 + 0.5), 10)
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
if there(lanes) then
  tell_lanes()
  open_lanes(wait_for)
end
if wanted > 0 and there(parked) and unpark(session, wanted) then wait_for(0) end
local free, rate_wait, limit = room()
local claims, unusual = {}, {}

-- The last usual header found: what stands before and behind its stamp. Most headers are like the one before, and comparing costs a
-- fifth of matching.
local before, behind, from, to, usual_name
local sub = string.sub

-- The function of a job without a time limit of its own, nil of another.
local function usual_function(record)
  if from and sub(record, 1, #before) == before and sub(record, from, to) == behind then return usual_name end
  local stamp, stamp_end, name, behind_name = string.match(record, USUAL_PARTS)
  if name then
    before, behind, from, to, usual_name = sub(record, 1, stamp - 1), sub(record, stamp_end, behind_name - 1), stamp_end,
      behind_name - 1, name
  end
  return name
end

local function last_failure(id)
  return string.match(redis.call('HGET', history, id) or '', '([^\n]*)$')
end

-- `records` and what each job counts in (`counted`) come from a claim that had to look at them before.
local function claim(found, records, counted)
  local count, keys, tries = #found / 2, {}, {}
  if count == 0 then return 0 end
  for i = 1, count do tries[i] = 'arq:retry:' .. found[2 * i - 1] end
  -- Mostly no job has ended tries. A key of another type is no count, and settling would not look for it.
  local counts_of = {}
  if redis.call('EXISTS', unpack(tries)) > 0 then
    counts_of = redis.call('MGET', unpack(tries))
    for i = 1, count do
      if not counts_of[i] then redis.call('UNLINK', tries[i]) end
    end
  end
  if not records then
    for i = 1, count do keys[i] = 'arq:job:' .. found[2 * i - 1] end
    records = redis.call('MGET', unpack(keys))
  end
  local crashed, states = {}, {}
  if there(crashes) or there(flows) then
    local ids = {}
    for i = 1, count do ids[i] = found[2 * i - 1] end
    crashed, states = redis.call('HMGET', crashes, unpack(ids)), redis.call('HMGET', flows, unpack(ids))
  end
  -- Formatting a number costs as much as a command: what is the same for all is written once.
  local token, held_at, usual = session .. ':' .. n, num(HELD + now), num(default_timeout + 10000)
  local claim_number, begun, taken = n .. ' ', tonumber(ARGV[6]), #claims / 3
  local bytes, scores, holding, tokens, setting = 0, {}, {}, {}, 0
  for i = 1, count do
    local id, score, record = found[2 * i - 1], found[2 * i], records[i]
    bytes = bytes + (record and #record or 0)
    if i > 1 and bytes > 1048576 then break end
    local asked = aborting and redis.call('ZSCORE', abort_set, id)
    if asked then
      local _, stamp = header(record)
      if stamp and tonumber(asked) < tonumber(stamp, 16) then
        redis.call('ZREM', abort_set, id)
        asked = false
      end
    end
    local life, name, tried = usual, record and (counted and counted.names[i] or usual_function(record)), counts_of[i]
    if not name then
      local _, _, timeout = header(record)
      if timeout and timeout > 0 then life = num(timeout + 10000) end
      name = function_of(record)
    end
    if not asked then tell('started', id, tried and name .. '\t' .. (tonumber(tried) or 0) + 1 or name) end
    if life == usual then
      tokens[setting + 1], tokens[setting + 2] = 'arq:in-progress:' .. id, token
      setting = setting + 2
    else
      set_keys({ 'arq:in-progress:' .. id, token }, life)
    end
    local entry = taken < begun and claim_number .. score or claim_number .. score .. NOT_BEGUN
    if counted then
      local group, lane = counted.groups[i], counted.functions[i]
      if group then
        entry = entry .. '\t' .. group
        enter_lane(group)
      end
      if lane then
        entry = entry .. '\t' .. lane
        enter_lane(lane)
      end
    end
    scores[2 * i - 1], scores[2 * i] = held_at, id
    holding[2 * i - 1], holding[2 * i] = id, entry
    local at = 3 * taken
    claims[at + 1], claims[at + 2], claims[at + 3] = id, record, score
    if tried or asked or crashed[i] or states[i] then
      unusual[#unusual + 1] = taken
      unusual[#unusual + 1] = { tried or '0', crashed[i] or '0', asked and '1' or '0', tried and last_failure(id) or 0,
        states[i] and failed_by_child(states[i]) or '' }
    end
    taken = taken + 1
  end
  if setting > 0 then set_keys(tokens, usual) end
  redis.call('ZADD', queue, unpack(scores))
  make_table(held, count)
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
    local count, going, keys = #found / 2, 0, {}
    if count == 0 then break end
    for i = 1, count do keys[i] = 'arq:job:' .. found[2 * i - 1] end
    local records = redis.call('MGET', unpack(keys))
    local counted = lanes_of(records)
    local groups, functions, names = counted.groups, counted.functions, counted.names
    for i = 1, counted.limited and count or 0 do
      local id, score = found[2 * i - 1], found[2 * i]
      if stopped_by_lane(id, score, groups[i], functions[i]) then
        disturb({ { id } })
      else
        going = going + 1
        if going < i then
          found[2 * going - 1], found[2 * going], records[going] = id, score, records[i]
          groups[going], functions[going], names[going] = groups[i], functions[i], names[i]
        end
      end
    end
    if not counted.limited then going = count end
    for i = 2 * count, 2 * going + 1, -1 do found[i] = nil end
    looked = looked + count
    local taken = claim(found, records, counted)
    started = started + taken
    if taken < going then break end
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
-- What was told is in the budget, too.
if #ARGV >= first_settle then keep_within_budget() end

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
-- At least once a minute, lest its clock and the server's go apart.
if next_due < HELD and not limit[1] then wait_for(math.min(math.floor(next_due) - now, 60000)) end
if poll > 0 then
  wait_for(poll)
elseif now - stock_seen < 3600000 then
  wait_for(500)
end
return { 'ok', now, wait, drain, refused, claims, unusual, sent and '1' or '0' }
