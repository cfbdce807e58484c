-- Aborts one job.
-- ARGV: 3 id, 4 the result record of an aborted job, 5 how long to keep it (ms), 6 the session of a process
--   that waits for a worker to end it, or ""
-- Returns "aborted" (it had not started), "asked" (its worker was told, or will find it out; the result comes to
--   who waits), "ended" (it is over), or "not_found".
local id = ARGV[3]
local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
if not score then
  return redis.call('EXISTS', 'arq:result:' .. id) == 1 and 'ended' or 'not_found'
end
redis.call('DEL', mark)
local word = 'aborted'
local record = get('arq:job:' .. id)
local foreign = record and not header(record)
local session, n = holder(id)
if session or score >= HELD and score < SUSPECT or stock_held({ id })[id] then
  -- Its worker may be dead already, or hand it back just now: the next claim sees the request.
  note_abort(id, now)
  if session then tell_abort(session, n, id) end
  if ARGV[6] ~= '' then add_waiter(id, ARGV[6]) end
  word = 'asked'
elseif foreign then
  -- Its clients could not read our record of it: as stock arq does, leave it to the worker that comes to it.
  if score >= now + 1 then redis.call('ZADD', queue, 1, id) end
  redis.call('ZADD', abort_set, num(now), id)
  if ARGV[6] ~= '' then add_waiter(id, ARGV[6]) end
  word = 'asked'
else
  local name = name_of(id)
  finish({ { 'a', tonumber(ARGV[5]), ARGV[5], name, '', id, ARGV[4] } })
  count_up({ (name == '' and '?' or name) .. '\31a', '1' }, 1, 2)
  redis.call('HINCRBY', totals, 'aborted', 1)
end
set_mark()
set_suspects()
write_events()
return word
