-- Claims a job for a worker that sleeps: sent behind the pop it sleeps in, so the server runs it as soon as that pop has
-- ended, and the worker hears of its job without having asked. That is for the usual case alone: one job, no more to
-- look at. Anything else is left to a tick.
-- ARGV: 3 session, 4 call number, 5 default timeout ms, 6 lease ms
-- Returns {} (nothing was claimed) or {now, id, record, score, "1" if the job counts as begun}. A process that stands still
-- takes a job, too: of one that has not renewed its lease when it should have, the job has not begun (lua/begin.lua).
local session, n = ARGV[3], ARGV[4]
-- `first`, the two jobs that come first of all, is of lua/asleep.lua.
if tonumber(first[4] or HELD) < now + 1 then return {} end
if redis.call('EXISTS', tags, limits, active, lanes, parked, crashes, flows, abort_set) > 0 then return {} end
local c = redis.call('HMGET', conf, 'paused', 'rate', 'global', 'own:rate', 'own:global', 'until')
if c[1] or c[2] or c[3] or c[4] or c[5] or tonumber(c[6] or 0) > now then return {} end
-- Sent before the session registered anew, it claims nothing: what was claimed then was released.
local registered = redis.call('HGET', session_key(session), 'sync')
if not registered or tonumber(n) <= tonumber(registered) then return {} end
local id, score = first[1], first[2]
local found = redis.call('MGET', 'arq:job:' .. id, 'arq:retry:' .. id)
local name = found[1] and not found[2] and string.match(found[1], '^arqd1 %d+ %d+ 0 %d+ ([^\t\n]*)\t')
if not name then return {} end

redis.call('DEL', mark)
redis.call('SET', 'arq:in-progress:' .. id, session .. ':' .. n, 'PX', num(ARGV[5] + 10000))
redis.call('ZADD', queue, num(HELD + now), id)
local left = tonumber(redis.call('ZSCORE', workers, session) or 0) - now
local begun = left > ARGV[6] * 0.6
redis.call('HSET', held_key(session), id, n .. ' ' .. score .. (begun and '' or NOT_BEGUN))
tell('started', id, name)
write_events()
return { now, id, found[1], score, begun and '1' or '0' }
