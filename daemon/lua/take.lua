-- Claims a job for a worker that sleeps: sent behind the pop it sleeps in, so the server runs it as soon as that pop has
-- ended, and the worker hears of its job without having asked. That is for the usual case alone: one job, no more to
-- look at. Anything else is left to a tick.
-- ARGV: 3 session, 4 call number, 5 default timeout ms, 6 lease ms
-- Returns {} (nothing was claimed) or {now, id, record, score, "1" if the job counts as begun}. A process that stands still
-- takes a job, too: of one that has not renewed its lease when it should have, the job has not begun (lua/begin.lua).
-- Most pops end because nothing came for a while: one look tells, without the time.
local first = redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES')
local id, score = first[1], first[2]
if not id or tonumber(score) >= 0 or string.find(id, '\n', 1, true) then return {} end
local now = time_now()
if tonumber(first[4] or HELD) < now + 1 then return {} end
if redis.call('EXISTS', tags, limits, active, lanes, parked, crashes, flows, abort_set, 'arq:retry:' .. id) > 0 then
  return {}
end
local c = redis.call('HMGET', conf, 'events', 'until', 'paused', 'rate', 'global', 'own:rate', 'own:global')
if c[3] or c[4] or c[5] or c[6] or c[7] or tonumber(c[2] or 0) > now then return {} end
-- Sent before the session registered anew, it claims nothing: what was claimed then was released.
local session, held = ARGV[1] .. 'session:' .. ARGV[3], ARGV[1] .. 'held:' .. ARGV[3]
local registered = redis.call('HGET', session, 'sync')
if not registered or tonumber(ARGV[4]) <= tonumber(registered) then return {} end
-- MGET reads a key of a wrong type as missing.
local record = redis.call('MGET', 'arq:job:' .. id)[1]
local name = record and string.match(record, USUAL)
if not name then return {} end
local event, written = 'started\n' .. name .. '\n' .. id, nil
if c[1] ~= '0' then
  local size = #event + EVENT_OVERHEAD
  written = redis.call('HINCRBY', clock, 'events', size)
  if not written_with(event, written - size, c[1]) then
    redis.call('HINCRBY', clock, 'events', -size)
    return {}
  end
end

-- Nothing that frees memory comes first: a full server lets none of it through, and a tick claims the job.
redis.call('SET', 'arq:in-progress:' .. id, ARGV[3] .. ':' .. ARGV[4], 'PX', whole(ARGV[5] + 10000))
redis.call('ZADD', queue, whole(HELD + now), id)
-- What tells of a job that has not begun: NOT_BEGUN in lua/prelude.lua.
local begun = tonumber(redis.call('ZSCORE', workers, ARGV[3]) or 0) - now > ARGV[6] * 0.6
redis.call('HSET', held, id, ARGV[4] .. ' ' .. score .. (begun and '' or ' ~'))
if written then write_event(event, now, written) end
return { now, id, record, score, begun and '1' or '0' }
