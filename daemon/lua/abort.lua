-- Aborts one job.
-- ARGV: 3 id, 4 the result record of an aborted job, 5 how long to keep it (ms)
-- Returns "aborted" (it had not started), "asked" (its worker was told), "ended" (it is over), or "not_found".
local id = ARGV[3]
local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
if not score then
  return redis.call('EXISTS', 'arq:result:' .. id) == 1 and 'ended' or 'not_found'
end
local session, n = holder(id)
if session then
  tell_abort(session, n, id)
  return 'asked'
end
if score >= HELD and score < SUSPECT then
  -- Held by a session that is being reaped: the next claim sees the request.
  redis.call('ZADD', abort_set, num(now), id)
  return 'asked'
end
redis.call('DEL', mark)
finish({ { 'a', id, ARGV[4], tonumber(ARGV[5]) } })
redis.call('HINCRBY', totals, 'aborted', 1)
set_mark()
set_suspects()
return 'aborted'
