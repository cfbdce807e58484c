-- Asks for a job's result: gives it, or registers for it.
-- ARGV: 3 the producer process's session, 4 id
-- Returns {1, result}, {0} (it will come on the list "<prefix>reply:<session>"), or {-1} (no such job, or nothing kept).
local session, id = ARGV[3], ARGV[4]
-- MGET reads a key of a wrong type as missing.
local result = redis.call('MGET', 'arq:result:' .. id)[1]
if result then return { 1, result } end
if not redis.call('ZSCORE', queue, id) then return { -1 } end
-- DEL first, of a key that is never there: a full server lets the rest through.
redis.call('DEL', ARGV[1] .. 'none')
add_waiter(id, session)
return { 0 }
