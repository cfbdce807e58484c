-- Adds, changes or removes a schedule, unless somebody else has changed it or a tick was made meanwhile.
-- ARGV: 3 name, 4 SHA-1 of the definition it replaces ("" there is none yet), 5 when that is due next ("" it is not),
--   6 the new definition ("" removes it), 7 when it is due next ("" it is not)
-- Returns 1, or 0 when it is not as expected.
local schedules, ticks, runs = prefix .. 'schedules', prefix .. 'ticks', prefix .. 'schedule:runs'
local name, definition, due = ARGV[3], ARGV[6], ARGV[7]
local old = redis.call('HGET', schedules, name)
if (old and redis.sha1hex(old) or '') ~= ARGV[4]
  or tonumber(redis.call('ZSCORE', ticks, name) or nil) ~= tonumber(ARGV[5]) then
  return 0
end
-- A full server refuses a new one, and lets everything be done with those it has.
if old then
  redis.call('ZREM', ticks, name)
else
  redis.call('HSET', schedules, name, definition)
end
if definition == '' then
  redis.call('HDEL', schedules, name)
  redis.call('HDEL', runs, name)
  return 1
end
if old then redis.call('HSET', schedules, name, definition) end
if due ~= '' then redis.call('ZADD', ticks, due, name) end
return 1
