-- Put before tick.lua and all it uses: one job that has completed, and its worker wants nothing else to be done (5 is -1).
-- What ended leaves nothing but its result, and nobody is to be let in for it: there are neither groups at a limit nor jobs
-- that left more than usual. (ARGV and what is returned: lua/tick.lua.)
local function settle_one()
  local at = 15 + 2 * ARGV[14]
  if ARGV[5] ~= '-1' or #ARGV ~= at + 8 or ARGV[at] ~= 'c' or ARGV[13] ~= '0' then return end
  local id, result, keep, detail = ARGV[at + 7], ARGV[at + 8], tonumber(ARGV[at + 2]), ARGV[at + 4]
  if result == '' or not keep or keep <= 0 or string.find(id, '\n', 1, true) then return end
  local session, held, claim = ARGV[1] .. 'session:' .. ARGV[3], ARGV[1] .. 'held:' .. ARGV[3], ARGV[at + 1] .. ' '
  local last = redis.call('HGET', session, 'n')
  if not last or tonumber(ARGV[4]) <= tonumber(last) then return end
  if redis.call('EXISTS', active, lanes, aborted, expired, progress, crashes, history, receipts, logs, abort_set, dedup, flows,
    parents, ARGV[1] .. 'kept:completed', ARGV[1] .. 'kept:dead') > 0 then return end
  local c = redis.call('HMGET', conf, 'events', 'statistics', 'max_bytes', 'own:max_bytes', 'global', 'own:global')
  if c[3] or c[4] or c[5] or c[6] then return end
  local entry = redis.call('HGET', held, id)
  if not entry or string.sub(entry, 1, #claim) ~= claim then return end
  local most, age = tonumber(ARGV[11]), tonumber(ARGV[12])
  local excess = most >= 0 and redis.call('ZCARD', completed) + 1 - most or 0
  if excess > 1 then return end
  local event = 'completed\n' .. detail .. '\n' .. id
  local before, counts = redis.call('HMGET', clock, 'events', 'minute'), c[2] ~= '0' and at > 15
  local written, now, us = written_with(event, before[1], c[1]), time_now()
  if not written or counts and not minute_goes_on(before[2], now) then return end

  -- UNLINK first: a script whose first write frees memory runs through on a full server.
  redis.call('UNLINK', 'arq:in-progress:' .. id, 'arq:job:' .. id, 'arq:retry:' .. id)
  redis.call('HSET', session, 'n', ARGV[4], 'at', whole(us))
  redis.call('SET', 'arq:result:' .. id, result, 'PX', ARGV[at + 2])
  redis.call('ZADD', completed, whole(now), id)
  redis.call('ZREM', queue, id)
  redis.call('HDEL', held, id)
  redis.call('HINCRBY', totals, 'completed', 1)
  local waiting = redis.call('HGET', waiters, id)
  if waiting then
    for producer in string.gmatch(waiting, '%S+') do
      local reply = ARGV[1] .. 'reply:' .. producer
      redis.call('RPUSH', reply, id .. '\n' .. result)
      redis.call('PEXPIRE', reply, 60000)
    end
    redis.call('HDEL', waiters, id)
  end
  local first = redis.call('ZRANGE', completed, 0, 0, 'WITHSCORES')
  if excess > 0 or age >= 0 and tonumber(first[2]) <= now - age then
    redis.call('UNLINK', 'arq:result:' .. first[1])
    redis.call('ZREM', completed, first[1])
  end
  if c[1] ~= '0' then
    redis.call('HSET', clock, 'events', whole(written))
    write_event(event, now, written)
  end
  if counts then
    local fields, amounts = {}, {}
    for i = 15, at - 1, 2 do fields[#fields + 1], amounts[#amounts + 1] = ARGV[i], ARGV[i + 1] end
    count_single(now, fields, amounts)
  end
  return { 'ok', now, -1, '0', {}, {}, {}, '0' }
end
do
  local done = settle_one()
  if done then return done end
end
