-- Removes the jobs that ended first, with all they left.
-- ARGV: 3 "completed" | "dead" | "aborted" | "expired", 4 at most so many (500), 5 ended at this time (ms) or before,
-- 6 "spare": as their retention does it, about 256 a call, sparing those whose own keep lasts longer
-- Returns how many were removed; fewer than asked for (sparing: 0) when no more are left.
local index = ({ completed = completed, dead = dead, aborted = aborted, expired = expired })[ARGV[3]]
if ARGV[6] == 'spare' then
  local before = redis.call('ZCARD', index)
  trim(index, -1, now - ARGV[5])
  return before - redis.call('ZCARD', index)
end
local most = num(math.min(tonumber(ARGV[4]), 500))
local ids = redis.call('ZRANGEBYSCORE', index, '-inf', ARGV[5], 'LIMIT', 0, most)
local count = forget(index, ids)
for _, id in ipairs(ids) do tell('removed', id, '') end
write_events()
return count
