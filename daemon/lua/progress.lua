-- Notes how far a job is, if this session still holds it.
-- ARGV: 3 session, 4 id, 5 "percent note", 6 the function and the try, a tab between
-- Returns 1, or 0 when the job is no longer this session's.
if redis.call('HEXISTS', held_key(ARGV[3]), ARGV[4]) == 0 then return 0 end
redis.call('HDEL', progress, ARGV[4])
redis.call('HSET', progress, ARGV[4], ARGV[5])
tell('progress', ARGV[4], ARGV[6] .. '\t\t' .. ARGV[5])
write_events()
return 1
