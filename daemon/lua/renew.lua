-- Renews a session's lease, repairs the wake-up mark (a half-open client may have eaten it) and trims what has aged.
-- ARGV: 3 session, 4 lease ms, 5 what to publish of the worker (JSON), 6 age ms of completed jobs (-1 for ever),
--   7 age ms of dead letters, 8 the layout that the worker knows (none: any)
-- Returns {1, or 2 when a job could be claimed now, the time, ms until another session's lease ends if that comes before
--   the next renewals (else -1), 1 if there are no jobs, so that rest.lua is enough, the queue's layout where that is
--   another}; {0} when the session is unknown
--   here: its jobs were given to others and it must call sync.
local session, lease = ARGV[3], tonumber(ARGV[4])
if not redis.call('ZSCORE', workers, session) then return { 0 } end
redis.call('DEL', mark, suspects)
observe(lease, session)
redis.call('ZADD', workers, num(now + lease), session)
redis.call('HSET', session_key(session), 'info', ARGV[5])
-- When the first lease of another ends, -1 if that is not soon: then a later renewal tells.
local function ends_next()
  local first = redis.call('ZRANGE', workers, 0, 1, 'WITHSCORES')
  local lease_end = tonumber(first[first[1] == session and 4 or 2])
  local left = lease_end and lease_end - now + 1
  return left and left <= lease / 2 and math.max(left, 0) or -1
end
local ends_in = ends_next()
-- An idle family costs little: what there is nothing of is not looked at.
local there = redis.call('EXISTS', queue, abort_set, tags, lanes, limits, parked, crashes, sizes, dedup_ends)
local queued = there > 0 and redis.call('EXISTS', queue) == 1
local unusual = there > (queued and 1 or 0)
if redis.call('EXISTS', completed, aborted, expired, dead) > 0 then
  for _, index in ipairs({ completed, aborted, expired }) do trim(index, -1, tonumber(ARGV[6])) end
  trim(dead, tonumber(redis.call('HGET', conf, 'keep_failed_count') or nil) or -1, tonumber(ARGV[7]))
end
-- Repairs what was counted wrong; without a budget nothing is counted.
local budget = byte_budget()
if budget then
  recount(2000)
  evict(0)
elseif unusual and redis.call('UNLINK', sizes) == 1 then
  redis.call('HDEL', clock, 'bytes', 'recount', 'counted', 'full')
end
-- A worker whose slots are all taken makes no other call that would find a stock abort().
if unusual and redis.call('EXISTS', abort_set) == 1 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, 1, 1, 'LIMIT', 0, 100)) do stock_abort(id, true) end
  tell_stock_aborts()
  -- One of an unknown id would stay for ever.
  redis.call('ZREMRANGEBYSCORE', abort_set, '-inf', num(now - 30 * DAY))
end

-- Which band a job was put into while the clock was ahead; nil: nothing that this band means is known of it.
local function own_band(id, score)
  if score < SUSPECT then return holder(id) and HELD end
  if score < BLOCKED then return redis.call('HEXISTS', crashes, id) == 1 and SUSPECT end
  if score < LANE then return string.find(redis.call('HGET', flows, id) or '', '^w ') and BLOCKED end
  if score < PARKED then
    local name, group = names_of(get('arq:job:' .. id))
    local waits = name and (redis.call('ZSCORE', lane_key('f:' .. name), id) or redis.call('ZSCORE', lane_key('g:' .. group), id))
    return waits and LANE
  end
  for _, need in ipairs(redis.call('ZRANGE', parked, 0, -1)) do
    if redis.call('ZSCORE', parked_key(need), id) then return PARKED end
  end
end

-- A stock producer's due time may lie in a band that means something else: bring it back to the last one allowed. What
-- stands there since the clock was ahead stays what it is.
local margin = now + 3600000
local bands = {
  { HELD + margin, '(' .. num(SUSPECT) },
  { SUSPECT + margin, '(' .. num(BLOCKED) },
  { BLOCKED + margin, '(' .. num(LANE) },
  { LANE, '(' .. num(LANE + 1099511627776) },
  { LANE + margin, '(' .. num(PARKED) },
  { PARKED, '(' .. num(PARKED + 1099511627776) },
  { PARKED + margin, '+inf' },
}
-- Most often nothing stands behind the jobs that run: one look instead of seven.
for _, band in ipairs(queued and redis.call('ZCOUNT', queue, num(HELD + margin), '+inf') > 0 and bands or {}) do
  local found = redis.call('ZRANGEBYSCORE', queue, num(band[1]), band[2], 'WITHSCORES', 'LIMIT', 0, 100)
  for i = 1, #found, 2 do
    local own = own_band(found[i], tonumber(found[i + 1]))
    redis.call('ZADD', queue, num(own and own + now or HELD - 1), found[i])
  end
end

-- A group whose last place virtual time has passed is like one that was never there.
local function prune_tags()
  local cursor = redis.call('HGET', clock, 'prune') or '0'
  local found = redis.call('HSCAN', tags, cursor, 'COUNT', 500)
  local passed, gone = {}, {}
  for i = 1, #found[2], 2 do
    local level, group = string.match(found[2][i], '^(%d+):(.*)$')
    level = tonumber(level)
    passed[level] = passed[level] or virtual_time(level, tonumber(redis.call('HGET', clock, 'tag' .. level) or 0))
    if group ~= '' and tonumber(found[2][i + 1]) <= passed[level] then gone[#gone + 1] = found[2][i] end
  end
  if #gone > 0 then redis.call('HDEL', tags, unpack(gone, 1, math.min(#gone, 5000))) end
  redis.call('HSET', clock, 'prune', found[1])
end
if unusual and has_groups() then prune_tags() end

-- A lane whose admitted job was removed before it ran would wait for ever for its end: look at all of them again.
for _, lane in ipairs(unusual and redis.call('ZRANGEBYSCORE', lanes, num(NEVER), '+inf', 'LIMIT', 0, 500) or {}) do
  redis.call('ZADD', lanes, num(now), lane)
end

-- Windows and waits that are over.
local function prune_limits()
  local found = redis.call('HSCAN', windows, redis.call('HGET', clock, 'prune:windows') or '0', 'COUNT', 500)
  for i = 1, #found[2], 2 do
    local limit = look_at(found[2][i]) and limit_of[found[2][i]]
    local last = tonumber(string.match(found[2][i + 1], '^%d+ (%d+)') or 0)
    if not limit or not limit[3] or last < now_us - limit[3] then redis.call('HDEL', windows, found[2][i]) end
  end
  redis.call('HSET', clock, 'prune:windows', found[1])
  found = redis.call('HSCAN', limits, redis.call('HGET', clock, 'prune:limits') or '0', 'COUNT', 500)
  for i = 1, #found[2], 2 do
    local lane = string.match(found[2][i], '^until:(.*)$')
    if lane and tonumber(found[2][i + 1]) <= now then redis.call('HDEL', limits, found[2][i]) end
  end
  redis.call('HSET', clock, 'prune:limits', found[1])
end
if unusual and redis.call('EXISTS', limits) == 1 then prune_limits() end
if unusual then trim_dedup(500) end

-- What was removed while it was parked, and a message to this worker that may have been lost.
local function look_at_parked()
  local may_try = tries_of(session)
  for _, need in ipairs(redis.call('ZRANGE', parked, 0, 255)) do
    local key = parked_key(need)
    for _, id in ipairs(redis.call('ZRANGE', key, 0, 49)) do
      local at = tonumber(redis.call('ZSCORE', queue, id) or nil)
      if not at or at < PARKED then redis.call('ZREM', key, id) end
    end
    if redis.call('EXISTS', key) == 0 then
      redis.call('ZREM', parked, need)
    elseif may_try(need) and not told[session] then
      told[session] = true
      redis.call('RPUSH', control_key(session), 'parked')
      redis.call('PEXPIRE', control_key(session), 60000)
    end
  end
end
if unusual and redis.call('EXISTS', parked) == 1 then look_at_parked() end
local waits = queued and set_mark()
if unusual then set_suspects() end
local layout = ARGV[8] and redis.call('GET', prefix .. 'schema')
local other = layout and layout ~= ARGV[8] and layout or nil
return { waits and 2 or 1, now, ends_in, queued and 0 or budget and 0 or 1, other }
