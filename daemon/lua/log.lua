-- Adds a line to what a job's handler logged, if this claim still holds the job. The newest 16 KB are kept: a first line
-- with the number of those dropped, then "<ms> <try> <text as JSON>" each.
-- ARGV: 3 session, 4 id, 5 claim number, 6 "<try> <text as JSON>"
-- Returns 1, or 0 when this claim does not hold the job any more.
local session, id, n = ARGV[3], ARGV[4], ARGV[5]
local entry = redis.call('HGET', held_key(session), id)
if not entry or string.find(entry, n .. ' ', 1, true) ~= 1 then return 0 end
local dropped, lines = string.match(redis.call('HGET', logs, id) or '0\n', '^(%d+)\n(.*)$')
lines = lines .. num(now) .. ' ' .. ARGV[6] .. '\n'
local from = 1
while #lines - from >= 16384 do
  from = string.find(lines, '\n', from, true) + 1
  dropped = dropped + 1
end
redis.call('HDEL', logs, id)
redis.call('HSET', logs, id, num(dropped) .. '\n' .. string.sub(lines, from))
weigh({ id })
return 1
