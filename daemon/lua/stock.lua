-- Put after the prelude: what stock arq's workers and clients do to a queue.

-- Which of these jobs a worker of stock arq runs, as a set. Such a job stands where it waited, and
-- only its in-progress key tells. It must not be re-scored: arq's retry adds to the score it read when it took the job.
local function stock_held(ids)
  local theirs, keys = {}, {}
  for i, id in ipairs(ids) do keys[i] = 'arq:in-progress:' .. id end
  if #ids == 0 then return theirs end
  for i, token in ipairs(redis.call('MGET', unpack(keys))) do
    if token and not string.match(token, '^%x+:%d+$') then theirs[ids[i]] = true end
  end
  return theirs
end

-- A stock client's abort() takes any job that is not waiting, held ones too, and files it under score 1; the entry in
-- the abort set comes a moment later. True when such a job is dealt with.
local function stock_abort(id, aborting)
  local holding, claim = holder(id)
  if holding then
    redis.call('ZADD', queue, num(HELD + now), id)
    tell_abort(holding, claim, id)
    if aborting and redis.call('ZSCORE', abort_set, id) then note_abort(id, now) end
    return true
  end
  if aborting and redis.call('EXISTS', 'arq:result:' .. id) == 1 then
    redis.call('ZREM', queue, id)
    redis.call('ZREM', abort_set, id)
    return true
  end
end

-- Jobs that were claimed between the two steps of a stock abort().
local function tell_stock_aborts()
  local asked = redis.call('ZREVRANGE', abort_set, 0, 31, 'WITHSCORES')
  for i = 1, #asked, 2 do
    local holding, claim
    if asked[i + 1] % 1 == 0 then holding, claim = holder(asked[i]) end
    if holding then
      tell_abort(holding, claim, asked[i])
      note_abort(asked[i], asked[i + 1])
    end
  end
end
