-- Put before enqueue.lua and all it uses: one job to run now, without a group or a dedup key, in a family that has
-- neither groups nor limits nor a budget. (ARGV and what is returned: lua/enqueue.lua.)
local function enqueue_one()
  local id, tail = ARGV[10], ARGV[11]
  if #ARGV ~= 11 or string.byte(ARGV[3]) ~= 48 or ARGV[6] ~= 'now' or string.find(id, '\n', 1, true) then return end
  local name = string.match(tail, '^([^\t\n]*)\t[\t\n]')
  if not name then return end
  local c = redis.call('HMGET', conf, 'priority', 'events', 'statistics', 'paused', 'until', 'encrypted', 'marked',
    'max_bytes', 'own:max_bytes', 'rate', 'global', 'own:rate', 'own:global')
  for i = 6, 13 do
    if c[i] then return end
  end
  if redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id, tags) > 0 then return end
  local level = ARGV[5] == '0' and whole(c[1] or 5) or ARGV[5]
  local found = redis.call('HMGET', clock, 'tag' .. level, 'events', 'minute')
  local event = 'enqueued\n' .. name .. '\n' .. id
  local written = written_with(event, found[2], c[2])
  local now = time_now()
  if not written or c[3] ~= '0' and not minute_goes_on(found[3], now) then return end

  local tag, deadline = (found[1] or 0) + STEP, ARGV[9] == '0' and 0 or now + ARGV[9]
  -- A job whose record is gone has its id still.
  if redis.call('ZADD', queue, 'NX', whole(READY + level * LEVEL + tag), id) == 0 then return end
  redis.call('MSET', 'arq:job:' .. id, new_header(level, stamp_of(now), tonumber(ARGV[8]), deadline) .. tail)
  redis.call('HSET', clock, 'tag' .. level, whole(tag), unpack(c[2] ~= '0' and { 'events', whole(written) } or {}))
  if #ARGV[3] > 1 then redis.call('HSET', waiters, id, string.sub(ARGV[3], 3)) end
  if not c[4] and tonumber(c[5] or 0) <= now then redis.call('ZADD', mark, 0, '1') end
  if c[2] ~= '0' then write_event(event, now, written) end
  if c[3] ~= '0' then count_single(now, 'enqueued') end
  return { 1 }
end
do
  local done = enqueue_one()
  if done then return done end
end
