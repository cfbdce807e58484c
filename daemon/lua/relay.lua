-- Adds the jobs of one batch of an outbox, once however often the batch is sent and by whom: it is remembered beside them.
-- Put after enqueue.lua, which is the function `enqueue` here.
-- ARGV: 3 name of the batch, 4 how long to remember it, ms, 5... jobs as in enqueue.lua
-- Returns {"ok", what enqueue.lua returns for each job}; {"known"}: it was added before; what enqueue.lua returns when it
--   refuses all of them: {"full", ms}, {"encrypted" or "marked", function}.
local batch = prefix .. 'relayed:' .. ARGV[3]
if redis.call('EXISTS', batch) == 1 then return { 'known' } end
local job = { ARGV[1], ARGV[2], '' }
for i = 5, #ARGV do job[#job + 1] = ARGV[i] end
local added = enqueue(job)
if type(added[1]) == 'string' then return added end
redis.call('SET', batch, num(now), 'PX', ARGV[4])
return { 'ok', added }
