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

-- Drops what jobs have beside their keys, and tells whoever waits for them. Of those in `forget` the history goes, too,
-- of those in `unkept` what they logged; `buried` is not empty when some are dead letters.
local function end_traces(ended, ids, forget, unkept, buried)
  unkeep(ids)
  -- A reused id may stand in another index, whose trimming would take this result.
  if #buried > 0 or redis.call('EXISTS', aborted, expired) > 0 then
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

-- The one way a job ends: result, index, waiters, then every trace of its run. `ended` is a list of
-- {kind, id, result, keep, keep as text, event's detail, cause}: keep in ms, 0 keeps nothing, -1 for ever; nil for
-- one of its own, which the text has: age in ms and count, -1 for no bound. A dead letter keeps its payload, history and receipts; what a handler logged stays as long as the result. `told`
-- is the event's kind where it is not the usual one.
local function finish(ended, told)
  if #ended == 0 then return end
  local ids, gone, indexed, results = {}, {}, { c = {}, b = {}, a = {}, e = {} }, {}
  local forget, unkept, buried, own, stamp = {}, {}, {}, {}, num(now)
  for i, job in ipairs(ended) do
    local kind, id, result, keep = job[1], job[2], job[3], job[4]
    ids[i] = id
    if not keep then
      local age, count = string.match(job[5], '^(%S+) (%S+)$')
      own[#own + 1] = { INDEX[kind], id, tonumber(age), tonumber(count) }
      -- Trimmed by its own time first; the expiry is for when nobody trims.
      keep = tonumber(age) < 0 and -1 or age + 60000
      job[5] = num(keep)
    end
    tell(told or TOLD[kind], id, job[6] or '')
    gone[#gone + 1] = 'arq:in-progress:' .. id
    if kind ~= 'b' then
      gone[#gone + 1] = 'arq:job:' .. id
      gone[#gone + 1] = 'arq:retry:' .. id
      forget[#forget + 1] = id
    end
    if result ~= '' and keep ~= 0 then
      local life = keep < 0 and '' or job[5] or num(keep)
      local alike = results[life]
      if not alike then
        alike = {}
        results[life] = alike
      end
      alike[#alike + 1], alike[#alike + 2] = 'arq:result:' .. id, result
      local list = indexed[kind]
      list[#list + 1] = stamp
      list[#list + 1] = id
      if kind == 'b' then buried[#buried + 1] = { id, job[7] or '' } end
    else
      unkept[#unkept + 1] = id
    end
  end
  for life, alike in pairs(results) do set_keys(alike, life) end
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
    end_traces(ended, ids, forget, unkept, indexed.b)
    for _, job in ipairs(own) do keep_own(unpack(job)) end
  end
  weigh(ids)
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
