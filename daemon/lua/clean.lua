-- Removes the jobs that ended first, with all they left.
-- ARGV: 3 "completed" | "dead" | "aborted" | "expired", 4 at most so many (500), 5 ended at this time (ms) or before
-- Returns how many were removed; fewer than asked for when no more are left.
local index = ({ completed = completed, dead = dead, aborted = aborted, expired = expired })[ARGV[3]]
local most = num(math.min(tonumber(ARGV[4]), 500))
local ids = redis.call('ZRANGEBYSCORE', index, '-inf', ARGV[5], 'LIMIT', 0, most)
local count = forget(index, ids)
for _, id in ipairs(ids) do tell('removed', id, '') end
write_events()
return count
