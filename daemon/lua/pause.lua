-- Pauses or resumes a queue: a paused one is one nobody claims from; what runs goes on.
-- ARGV: 3 "1" to pause, "0" to resume
-- Returns 1, or 0 when it was so already.
redis.call('DEL', mark)
local changed
if ARGV[3] == '1' then
  changed = redis.call('HSETNX', conf, 'paused', num(now))
else
  changed = redis.call('HDEL', conf, 'paused')
  -- Workers that looked meanwhile were told nothing of delayed jobs and suspects: one looks again and says when.
  if changed == 1 then redis.call('ZADD', mark, 0, '1') end
end
set_mark()
set_suspects()
if changed == 1 then tell(ARGV[3] == '1' and 'paused' or 'resumed', '', '') end
write_events()
return changed
