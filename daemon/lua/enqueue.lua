-- Adds jobs, all or (on a full server) none.
-- ARGV[3] "1" when this call repeats one whose reply was lost, "own" when the engine itself adds them, whom no budget of
--   bytes refuses; then seven per job:
--   id, level (0: the family's), "now" | "in" | "at", ms (delay or due time), timeout ms, expires ms from now, tail
--   With a dedup key the third goes on: a space, "drop" | "replace" | "debounce", a space, its window in ms (0: while the
--   job lives), a space, the key. So jobs without one have nothing more to carry.
-- Returns per job: 1 added, 0 a job with this id exists, or {id of the job that has its dedup key, 1 if that job has got
-- its payload, 2 if not since it is encrypted for another id}. Nothing was added, of none of them: {"full", ms}, over the
-- family's budget of bytes, and there may be room then; {"encrypted" or "marked", function}, one came in clear and must not.
local added, records, scores, ready = {}, {}, {}, {}
local enqueued, adding = 0, 0
local fallback
local seen = {}
local keepers, kept, moves = {}, {}, {}

-- conf has "encrypted" where the family takes encrypted jobs only, and "marked", the functions with marked fields, \t
-- before and after each. A producer that does not know it must not get a secret in here; a job without arguments has none.
do
  local guard = redis.call('HMGET', conf, 'encrypted', 'marked')
  for i = 10, (guard[1] or guard[2]) and #ARGV or 0, 7 do
    local tail = ARGV[i]
    local name, others, body = string.match(tail, '^([^\t\n]*)([^\n]*)\n()')
    local nothing = string.find(tail, '^%[%]', body)
      and (string.find(tail, '^%[%],"k":{}', body) or not string.find(tail, '^%[%],"k":', body))
    if string.byte(tail, body) ~= 1 and not nothing then
      if guard[1] then return { 'encrypted', name } end
      -- What a payload class wrote has its schema.
      local marked = string.find(guard[2], '\t' .. name .. '\t', 1, true)
      if marked and not string.find(tail, '"$secret":"arqd1:', body, true) and not string.find(others, '\t.*\t') then
        return { 'marked', name }
      end
    end
  end
end

local stamp = num(now)
local function record_of(i, level)
  local deadline = ARGV[i + 5] == '0' and '0' or num(now + ARGV[i + 5])
  return table.concat({ 'arqd1', level, stamp, ARGV[i + 4], deadline, ARGV[i + 6] }, ' ')
end

-- Whether any id is in use: of most calls none is, and then there is no need to look for each.
local any_used = false
for first = 4, #ARGV, 7000 do
  local keys = {}
  for i = first, math.min(first + 6999, #ARGV), 7 do
    keys[#keys + 1], keys[#keys + 2] = 'arq:job:' .. ARGV[i], 'arq:result:' .. ARGV[i]
  end
  any_used = any_used or redis.call('EXISTS', unpack(keys)) > 0
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
local function repeated(i, job, mode, key, span, level, due)
  if mode == 'drop' or not job.level then return 0 end
  -- What is encrypted for one id cannot be read under another.
  local tail = ARGV[i + 6]
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
  records[#records + 1] = 'arq:job:' .. job.id
  records[#records + 1] = record_of(i, job.level)
  tell('replaced', job.id, function_of(records[#records]))
  return 1
end

for i = 4, #ARGV, 7 do
  local id, level, when, ms = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
  local tail = ARGV[i + 6]
  local new = 1
  local mode, span, key, job
  if #when > 3 then
    when, mode, span, key = string.match(when, '^(%a+) (%a+) (%d+) (.*)$')
    span, job = tonumber(span), keeper(key)
  end
  local due = when == 'in' and now + ms or when == 'at' and ms or now
  if level == 0 then
    fallback = fallback or default_level()
    level = fallback
  end
  if job then
    if ARGV[3] ~= '1' or job.id ~= id or seen[id] then
      new = { job.id, repeated(i, job, mode, key, span, level, due) }
    end
  elseif seen[id] or any_used and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    new = 0
    if ARGV[3] == '1' and not seen[id] then
      local stored = get('arq:job:' .. id)
      if stored and string.sub(stored, -#tail) == tail then new = 1 end
    end
  else
    records[#records + 1] = 'arq:job:' .. id
    records[#records + 1] = record_of(i, level)
    local name, group = string.match(tail, '^([^\t\n]*)\t([^\t\n]*)')
    name, enqueued, adding = name or '', enqueued + 1, adding + #records[#records] + #id + 300
    tell('enqueued', id, due > now and name .. '\t\t\tfor ' .. math.ceil((due - now) / 1000) .. ' s later' or name)
    if due > now then
      scores[#scores + 1] = num(math.min(due, HELD - 1) + level / 16)
      scores[#scores + 1] = id
    else
      ready[#ready + 1] = { id, level, group or '' }
    end
    if key then
      keepers[key] = { id = id, level = level }
      kept[#kept + 1] = { key, id, span }
    end
  end
  seen[id] = true
  added[#added + 1] = new
end
if #records == 0 then return added end

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
give_places(ready, scores)
local queued = 0
for i = 1, #scores, 2000 do
  queued = queued + redis.call('ZADD', queue, 'NX', unpack(scores, i, math.min(i + 1999, #scores)))
end
if #moves > 0 then
  redis.call('ZADD', queue, unpack(moves))
  redis.call('DEL', mark)
end
if #kept > 0 then keep_dedup(kept) end
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
