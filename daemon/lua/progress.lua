-- Notes how far a job is, if this session still holds it.
-- ARGV: 3 session, 4 id, 5 "percent note"
-- Returns 1, or 0 when the job is no longer this session's.
if redis.call('HEXISTS', held_key(ARGV[3]), ARGV[4]) == 0 then return 0 end
redis.call('HDEL', progress, ARGV[4])
redis.call('HSET', progress, ARGV[4], ARGV[5])
return 1
