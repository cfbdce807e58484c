-- A process registers, comes back after a lost connection, or leaves: what Redis holds for it and what it runs are
-- made the same.
-- ARGV: 3 session, 4 call number, 5 lease ms, 6 "1" to leave for good, 7 what to publish of the worker (JSON),
--   8 default priority, 9 rate limit count ("" none), 10 its period in microseconds, 11 global limit ("" none),
--   12 bytes of events kept (0 none), 13 "1" if statistics are kept,
--   14 bytes the family may take, 15 age ms of dead letters, 16 how many of them are kept ("" for any),
--   17 how many limits of groups and functions the settings have, then field and value of each (lua/lanes.lua);
--   then four per job it runs or has finished and not yet settled: id, claim number, score before the claim, stamp
-- Returns {"ok", now, {ids to cancel: another worker has them or they are gone}} or {"stale"}; an error on a
-- server of 32 bits.
local session, n, lease = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local held = held_key(session)
-- Whole numbers are written as C longs (lua/prelude.lua).
if num(2 ^ 52) ~= '4503599627370496' then return redis.error_reply('ERR arqd needs a 64-bit server') end
local last = redis.call('HGET', session_key(session), 'n')
if last and n <= tonumber(last) then return { 'stale' } end
redis.call('DEL', mark)
observe(lease, last and session)

local mine, lost = {}, {}
local first_held = 18 + 2 * ARGV[17]
for i = first_held, #ARGV, 4 do
  local id, claim, score, stamp = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  mine[id] = true
  local entry = redis.call('HGET', held, id)
  if not entry or string.match(entry, '^%d+ %S+') ~= claim .. ' ' .. score then
    -- Reaped or rolled back while we were away. It is still ours if nobody took it since and it is the same job.
    local at = tonumber(redis.call('ZSCORE', queue, id) or nil)
    local _, enqueued = header(get('arq:job:' .. id))
    local elsewhere = at and (at >= HELD and at < SUSPECT or stock_held({ id })[id]) and not entry
    if at and not elsewhere and not entry and (enqueued or '') == stamp then
      redis.call('HSET', held, id, claim .. ' ' .. score)
      redis.call('ZADD', queue, num(HELD + now), id)
      redis.call('SET', 'arq:in-progress:' .. id, session .. ':' .. claim, 'PX', DAY)
      if last == false and tonumber(redis.call('HGET', crashes, id) or 0) > 0 then
        redis.call('HINCRBY', crashes, id, -1)
      end
    else
      lost[#lost + 1] = id
      mine[id] = nil
    end
  elseif string.find(entry, NOT_BEGUN_ENTRY) then
    redis.call('HSET', held, id, (string.gsub(entry, NOT_BEGUN_ENTRY, '%1')))
  end
end
local entries = redis.call('HGETALL', held)
for i = 1, #entries, 2 do
  if not mine[entries[i]] then release_orphan(session, entries[i], entries[i + 1], false, 0) end
end
tell_lanes()

-- What runs in each lane is not changed but counted anew: after a failover a count that is too high would hold its lane up for good.
local function count_lanes()
  redis.call('DEL', active)
  for _, other in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
    for _, entry in ipairs(redis.call('HVALS', held_key(other))) do
      for lane in string.gmatch(entry, '\t([^\t]+)') do redis.call('HINCRBY', active, lane, 1) end
    end
  end
end
if redis.call('EXISTS', active) == 1 then count_lanes() end

if ARGV[6] == '1' then
  redis.call('ZREM', workers, session)
  redis.call('DEL', session_key(session), control_key(session))
else
  redis.call('ZADD', workers, num(now + lease), session)
  redis.call('HSET', session_key(session), 'n', n, 'sync', n, 'info', ARGV[7])
  redis.call('HSET', conf, 'priority', ARGV[8], 'events', ARGV[12], 'statistics', ARGV[13])
  for i, field in ipairs({ 'max_bytes', 'keep_failed', 'keep_failed_count' }) do
    if ARGV[13 + i] ~= '' then
      redis.call('HSET', conf, field, ARGV[13 + i])
    else
      redis.call('HDEL', conf, field)
    end
  end
  if ARGV[9] ~= '' then
    redis.call('HSET', conf, 'rate', ARGV[9], 'per', ARGV[10])
  else
    redis.call('HDEL', conf, 'rate', 'per')
  end
  if ARGV[11] ~= '' then
    redis.call('HSET', conf, 'global', ARGV[11])
  else
    redis.call('HDEL', conf, 'global')
  end
  for _, field in ipairs(redis.call('HKEYS', limits)) do
    if string.sub(field, 1, 2) == 's:' then redis.call('HDEL', limits, field) end
  end
  for i = 18, first_held - 1, 2 do redis.call('HSET', limits, ARGV[i], ARGV[i + 1]) end
end
set_mark()
set_suspects()
write_events()
if ARGV[12] == '0' then redis.call('UNLINK', prefix .. 'events') end
return { 'ok', now, lost }
