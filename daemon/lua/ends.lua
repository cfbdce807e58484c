-- Put after the prelude: how jobs end, and how what they left is dropped.

local function add_history(id, line)
  if line == '' then return end
  local old = redis.call('HGET', history, id)
  local text = old and (old .. '\n' .. line) or line
  while #text > 16384 and string.find(text, '\n', 1, true) do
    text = string.sub(text, string.find(text, '\n', 1, true) + 1)
  end
  redis.call('HSET', history, id, text)
end

local INDEX = { c = completed, b = dead, a = aborted, e = expired }
local TOTAL = { c = 'completed', b = 'failed', a = 'aborted', e = 'expired', r = 'retried', l = 'released', w = 'released',
  p = 'parked' }

-- Where ended jobs may have left more than their keys.
local TRACES = { own_keep[completed], own_keep[dead], aborted, expired, waiters, progress, crashes, history, receipts, logs,
  abort_set, dedup, flows, parents }

-- Drops what jobs that end have beside their keys, and tells whoever waits for them; a dead letter keeps its history.
local function end_traces(runs, ids)
  local ended, forget, unkept = {}, {}, {}
  for _, run in ipairs(runs) do
    local kind, keep = run[1], run[2]
    for i = 6, #run, 2 do
      ended[#ended + 1] = { kind, run[i], run[i + 1], keep }
      if kind ~= 'b' then forget[#forget + 1] = run[i] end
      if run[i + 1] == '' or keep == 0 then unkept[#unkept + 1] = run[i] end
    end
  end
  unkeep(ids)
  -- A reused id may stand in another index, whose trimming would take this result.
  if #forget < #ids or redis.call('EXISTS', aborted, expired) > 0 then
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
  if redis.call('EXISTS', progress, crashes) > 0 then
    redis.call('HDEL', progress, unpack(ids))
    redis.call('HDEL', crashes, unpack(ids))
  end
  if #forget > 0 and redis.call('EXISTS', history) == 1 then redis.call('HDEL', history, unpack(forget)) end
  if redis.call('EXISTS', receipts, logs) > 0 then
    if #forget > 0 then redis.call('HDEL', receipts, unpack(forget)) end
    if #unkept > 0 then redis.call('HDEL', logs, unpack(unkept)) end
  end
  if redis.call('EXISTS', abort_set) == 1 then redis.call('ZREM', abort_set, unpack(ids)) end
  if redis.call('EXISTS', dedup) == 1 then free_dedup(ended) end
  if redis.call('EXISTS', flows, parents) > 0 then end_flows(ended) end
end

-- The one way jobs end: result, index, waiters, then every trace of their runs. `runs` are
-- {kind, keep, keep as text, event's detail, cause, id, result, id, result, ...}: jobs that have all but these in common.
-- keep in ms, 0 keeps nothing, -1 for ever; false for one of their own, which the text has: age in ms and count, -1 for
-- no bound. Field "untried": they have no count of ended tries. A dead letter keeps its payload, history and receipts;
-- what a handler logged stays as long as the result.
-- `told` is the event's kind where it is not the usual one.
local function finish(runs, told)
  if #runs == 0 then return end
  local ids, gone, indexed, results = {}, {}, { c = {}, b = {}, a = {}, e = {} }, {}
  local buried, own, stamp, jobs, keys = {}, {}, num(now), 0, 0
  for _, run in ipairs(runs) do
    local kind, keep, life, detail = run[1], run[2], run[3], run[4]
    local event, index, bury, own_age, own_count = told or TOLD[kind], indexed[kind], kind == 'b', nil, nil
    if not keep then
      own_age, own_count = string.match(life, '^(%S+) (%S+)$')
      own_age, own_count = tonumber(own_age), tonumber(own_count)
      -- Trimmed by its own time first; the expiry is for when nobody trims.
      keep = own_age < 0 and -1 or own_age + 60000
      life = num(keep)
    end
    if keep < 0 then life = '' end
    local alike = results[life] or {}
    results[life] = alike
    local indexing, setting = #index, #alike
    local untried = run.untried
    for i = 6, #run, 2 do
      local id, result = run[i], run[i + 1]
      jobs, keys = jobs + 1, keys + 1
      ids[jobs], gone[keys] = id, 'arq:in-progress:' .. id
      tell(event, id, detail)
      if not bury then
        keys = keys + 1
        gone[keys] = 'arq:job:' .. id
        if not untried then
          keys = keys + 1
          gone[keys] = 'arq:retry:' .. id
        end
      end
      if result ~= '' and keep ~= 0 then
        alike[setting + 1], alike[setting + 2] = 'arq:result:' .. id, result
        index[indexing + 1], index[indexing + 2] = stamp, id
        setting, indexing = setting + 2, indexing + 2
        if bury then buried[#buried + 1] = { id, run[5] } end
      end
      if own_age then own[#own + 1] = { INDEX[kind], id, own_age, own_count } end
    end
  end
  for life, alike in pairs(results) do
    if #alike > 0 then set_keys(alike, life) end
  end
  for kind, list in pairs(indexed) do
    if #list > 0 then redis.call('ZADD', INDEX[kind], unpack(list)) end
  end
  if #buried > 0 then note_causes(buried) end
  redis.call('ZREM', queue, unpack(ids))
  redis.call('UNLINK', unpack(gone))
  -- Most jobs leave nothing of what follows.
  local traces = redis.call('EXISTS', unpack(TRACES)) > 0
  if not traces then any_own = any_own or false end
  if #indexed.b > 0 or #own > 0 or traces then
    end_traces(runs, ids)
    for _, job in ipairs(own) do keep_own(unpack(job)) end
  end
  weigh(ids)
end

-- Drops ended jobs from an index with all they left; `first` if they are its first.
local function forget(index, ids, first)
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
  if first then
    -- Half of what looking for each would cost.
    redis.call('ZREMRANGEBYRANK', index, 0, #ids - 1)
  else
    redis.call('ZREM', index, unpack(ids))
  end
  if index == dead then
    redis.call('HDEL', history, unpack(ids))
    drop_causes(ids)
  end
  if redis.call('EXISTS', receipts, logs) > 0 then
    redis.call('HDEL', logs, unpack(ids))
    if index == dead then redis.call('HDEL', receipts, unpack(ids)) end
  end
  if redis.call('EXISTS', flows, parents) > 0 then forget_flows(ids) end
  unkeep(ids)
  weigh(ids)
  return #ids
end
