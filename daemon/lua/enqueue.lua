-- Adds jobs, all or (on a full server) none.
-- ARGV[3] "1" when this call repeats one whose reply was lost, "own" when the engine itself adds them, whom no budget of
--   bytes refuses, else "0"; behind "1" or "0", of a single job, a space and the session of the process that is told its
--   result (lua/await.lua); then runs of jobs (daemon/producing/batches.py) that have all but id and tail in common. A run is
--   count, level (0: the family's), "now" | "in" | "at", ms (delay or due time), timeout ms, expires ms from now, and then
--   id, tail of each of its jobs.
--   With a dedup key the third goes on: a space, "drop" | "replace" | "debounce", a space, its window in ms (0: while the
--   job lives), a space, the key. So jobs without one have nothing more to carry.
-- Returns per job: 1 added, 0 a job with this id exists, or {id of the job that has its dedup key, 1 if that job has got
-- its payload, 2 if not since it is encrypted for another id}. Nothing was added, of none of them: {"full", ms}, over the
-- family's budget of bytes, and there may be room then; {"encrypted" or "marked", function}, one came in clear and must not.
local added, records, scores, ready = {}, {}, {}, {}
local enqueued, adding, last_record = 0, 0, 0
local fallback
local again, waits = string.byte(ARGV[3]) == 49, string.match(ARGV[3], ' (.*)')
local seen = {}
local keepers, kept, moves = {}, {}, {}

-- Where each run begins.
local runs = {}
do
  local at = 4
  while at <= #ARGV do
    runs[#runs + 1] = at
    at = at + 6 + 2 * ARGV[at]
  end
end
local function last_of(run) return run + 4 + 2 * ARGV[run] end

-- conf has "encrypted" where the family takes encrypted jobs only, and "marked", the functions with marked fields, \t
-- before and after each. A producer that does not know it must not get a secret in here; a job without arguments has none.
do
  local guard = redis.call('HMGET', conf, 'encrypted', 'marked')
  local function refused(tail)
    local name, others, body = string.match(tail, '^([^\t\n]*)([^\n]*)\n()')
    local nothing = string.find(tail, '^%[%]', body)
      and (string.find(tail, '^%[%],"k":{}', body) or not string.find(tail, '^%[%],"k":', body))
    if string.byte(tail, body) == 1 or nothing then return nil end
    if guard[1] then return { 'encrypted', name } end
    -- What a payload class wrote has its schema.
    local marked = string.find(guard[2], '\t' .. name .. '\t', 1, true)
    if marked and not string.find(tail, '"$secret":"arqd1:', body, true) and not string.find(others, '\t.*\t') then
      return { 'marked', name }
    end
  end
  for _, run in ipairs((guard[1] or guard[2]) and runs or {}) do
    for i = run + 6, last_of(run), 2 do
      local reason = refused(ARGV[i + 1])
      if reason then return reason end
    end
  end
end

-- What stands before the tail in the records of a run.
local function head_of(run, level)
  local timeout, expires = tonumber(ARGV[run + 4]), tonumber(ARGV[run + 5])
  return new_header(level, stamp_of(now), timeout, expires > 0 and now + expires or 0)
end

-- Whether any id is in use: of most calls none is, and then there is no need to look for each. The keys of jobs are made
-- once, in the order of the jobs, each with that of its result behind it.
local any_used, job_keys = false, {}
do
  local last = 0
  for _, run in ipairs(runs) do
    for i = run + 6, last_of(run), 2 do
      job_keys[last + 1], job_keys[last + 2] = 'arq:job:' .. ARGV[i], 'arq:result:' .. ARGV[i]
      last = last + 2
    end
  end
  for i = 1, last, 7000 do
    any_used = any_used or redis.call('EXISTS', unpack(job_keys, i, math.min(i + 6999, last))) > 0
  end
end

-- The job that has a dedup key now; `level` only while it waits or is delayed. False: the key is free.
local function keeper(key)
  if keepers[key] ~= nil then return keepers[key] end
  local till, id = dedup_entry(key)
  local score = id and tonumber(redis.call('ZSCORE', queue, id) or nil)
  local found = false
  if id and (till == 0 and score or till > now) then
    found = { id = id, score = score }
    if score and not (score >= HELD and score < SUSPECT or score == 1 and holder(id)) then
      found.level = level_of(score, score >= HELD and get('arq:job:' .. id))
    end
  end
  keepers[key] = found
  return found
end

-- A repeat: the job that has the key gets the new payload and, debounced, its due time anew. One that runs or has
-- ended is left alone, and one that is to run alone after crashes keeps its turn. Gives 1 if it was changed.
local function repeated(run, i, job, mode, key, span, level, due)
  if mode == 'drop' or not job.level then return 0 end
  -- What is encrypted for one id cannot be read under another.
  local tail = ARGV[i + 1]
  if ARGV[i] ~= job.id and (string.find(tail, '^[^\n]*\n\1') or string.find(tail, '"$secret":"arqd1:', 1, true)) then
    return 2
  end
  local at = job.score
  if mode == 'debounce' and not (at and at >= SUSPECT and at < LANE) then
    job.level = level
    moves[#moves + 1] = num(math.min(due, HELD - 1) + level / 16)
    moves[#moves + 1] = job.id
  end
  if mode == 'debounce' and span > 0 then kept[#kept + 1] = { key, job.id, span } end
  last_record = last_record + 2
  records[last_record - 1], records[last_record] = 'arq:job:' .. job.id, head_of(run, job.level) .. tail
  tell('replaced', job.id, function_of(records[last_record]))
  return 1
end

local at_key = -1
for _, run in ipairs(runs) do
  local level, when, ms = tonumber(ARGV[run + 1]), ARGV[run + 2], tonumber(ARGV[run + 3])
  local mode, span, key
  if #when > 3 then
    when, mode, span, key = string.match(when, '^(%a+) (%a+) (%d+) (.*)$')
    span = tonumber(span)
  end
  local due = when == 'in' and now + ms or when == 'at' and ms or now
  if level == 0 then
    fallback = fallback or default_level()
    level = fallback
  end
  local later = due > now and num(math.min(due, HELD - 1) + level / 16)
  local head = head_of(run, level)
  -- Function and group as they stand in a tail, mostly those of the job before.
  local names, group, detail
  for i = run + 6, last_of(run), 2 do
    local id, tail, new = ARGV[i], ARGV[i + 1], 1
    at_key = at_key + 2
    local job = key and keeper(key)
    if job then
      if not again or job.id ~= id or seen[id] then
        new = { job.id, repeated(run, i, job, mode, key, span, level, due) }
      end
    elseif seen[id] or any_used and redis.call('EXISTS', job_keys[at_key], job_keys[at_key + 1]) > 0 then
      new = 0
      if again and not seen[id] then
        local stored = get(job_keys[at_key])
        if stored and string.sub(stored, -#tail) == tail then new = 1 end
      end
    else
      local record = head .. tail
      last_record = last_record + 2
      records[last_record - 1], records[last_record] = job_keys[at_key], record
      enqueued, adding = enqueued + 1, adding + #record + #id + 300
      if not names or string.sub(tail, 1, #names) ~= names then
        names, detail, group = string.match(tail, '^(([^\t\n]*)\t([^\t\n]*)[^\n]*\n)')
        detail = detail or ''
        if later then detail = detail .. '\t\t\tfor ' .. math.ceil((due - now) / 1000) .. ' s later' end
      end
      tell('enqueued', id, detail)
      if later then
        scores[#scores + 1] = later
        scores[#scores + 1] = id
      else
        line_up(ready, id, level, group or '')
      end
      if key then
        keepers[key] = { id = id, level = level }
        kept[#kept + 1] = { key, id, span }
      end
    end
    seen[id] = true
    added[#added + 1] = new
  end
end
if #records == 0 then return added end

-- Made by weighing(): weigh, no_room
if byte_budget() then weighing() end
if enqueued > 0 and byte_budget() then
  local wait = no_room(adding)
  if wait and ARGV[3] ~= 'own' then return { 'full', wait } end
end

-- MSET comes first: a full server refuses it before anything is written.
for i = 1, #records, 2000 do
  redis.call('MSET', unpack(records, i, math.min(i + 1999, #records)))
end
local function first_delayed()
  local first = redis.call('ZRANGEBYSCORE', queue, num(now + 1), '(' .. num(HELD), 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2]) or HELD
end
local soonest = (#scores > 0 or #moves > 0) and first_delayed()
give_lined_up(ready, scores)
local queued = 0
for i = 1, #scores, 2000 do
  queued = queued + redis.call('ZADD', queue, 'NX', unpack(scores, i, math.min(i + 1999, #scores)))
end
if #moves > 0 then
  redis.call('ZADD', queue, unpack(moves))
  redis.call('DEL', mark)
end
if #kept > 0 then keep_dedup(kept) end
if waits and added[1] == 1 then add_waiter(ARGV[10], waits) end
if byte_budget() then
  local ids = {}
  for i = 1, #records, 2 do ids[#ids + 1] = string.sub(records[i], 9) end
  weigh(ids)
end

-- Workers sleep until the next job they knew of: wake one when an earlier one came.
local earlier = soonest and first_delayed() < soonest
-- A ready job that was not in the queue before can be claimed now.
if not set_mark(nil, #ready > 0 and queued == #scores / 2 or nil) and earlier then redis.call('ZADD', mark, 0, '1') end
write_events()
if enqueued > 0 then count_up({ 'enqueued', num(enqueued) }, 1, 2) end
return added
