-- Put after the lanes: jobs that wait for a worker that can run them, since the one that claimed them cannot. A job's
-- need is its function, and behind it, where that is known but too old for its payload, \31 and what it lacks.
--
--   parked         need -> when a job was last parked for it, ms
--   parked:<need>  its jobs: id -> ready score
--   session:<s>    field "lacks": the needs its process could not meet, \t before and after each
--
-- Any process that knows the function tries a need once. So no order of versions has to be known, and jobs go to and
-- fro at most once between two workers.
local PARKED = LANES_END

local function parked_key(need) return prefix .. 'parked:' .. need end

-- Gives a function that tells whether a session may try a need.
local function tries_of(session)
  local found = redis.call('HMGET', session_key(session), 'info', 'lacks')
  local ok, info = pcall(cjson.decode, found[1] or '')
  local known, lacks = {}, found[2] or ''
  if ok and type(info) == 'table' and type(info.functions) == 'table' and not info.draining then
    for _, name in ipairs(info.functions) do known[name] = true end
  end
  return function(need)
    return known[string.match(need, '^[^\31]*')] and not string.find(lacks, '\t' .. need .. '\t', 1, true)
  end
end

local told = {}
-- Tells the other workers that can try it; each looks with its next call.
local function tell_able(need, session)
  for _, other in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
    if other ~= session and not told[other] and tries_of(other)(need) then
      told[other] = true
      redis.call('RPUSH', control_key(other), 'parked')
      redis.call('PEXPIRE', control_key(other), 60000)
    end
  end
end

local function park(id, score, need, session)
  redis.call('ZADD', queue, num(PARKED + now), id)
  redis.call('ZADD', parked_key(need), num(score), id)
  redis.call('ZADD', parked, num(now), need)
  local lacks = redis.call('HGET', session_key(session), 'lacks') or '\t'
  if not string.find(lacks, '\t' .. need .. '\t', 1, true) then
    redis.call('HSET', session_key(session), 'lacks', lacks .. need .. '\t')
  end
  tell_able(need, session)
end

-- Gives up to `count` jobs that a session may try their places back; true when it may try more.
local function unpark(session, count)
  local may_try = tries_of(session)
  for _, need in ipairs(redis.call('ZRANGE', parked, 0, 255)) do
    if may_try(need) then
      local key = parked_key(need)
      local found = redis.call('ZRANGE', key, 0, math.min(count, 128), 'WITHSCORES')
      for i = 1, math.min(#found, 2 * count), 2 do
        local id, score = found[i], tonumber(found[i + 1])
        local at = tonumber(redis.call('ZSCORE', queue, id) or nil)
        if at and at >= PARKED then
          local record = get('arq:job:' .. id)
          local level = header(record)
          if not level or level < 1 then level = level_of(score, record) end
          if score >= 0 or level ~= level_of(score) then
            place(id, level, record)
          else
            redis.call('ZADD', queue, found[i + 1], id)
          end
          count = count - 1
        end
        redis.call('ZREM', key, id)
      end
      if redis.call('EXISTS', key) == 0 then redis.call('ZREM', parked, need) end
      if #found > 0 and count <= 0 then return true end
    end
  end
  return false
end
