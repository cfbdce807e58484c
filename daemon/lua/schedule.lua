-- Makes one tick of a schedule: enqueues its job and sets when it is due next, once however many processes try.
-- Put after enqueue.lua, which is the function `enqueue` here: a scheduled job comes in as any other.
-- ARGV: 3 name, 4 the time it is due, 5 SHA-1 of its definition, 6 when it is due next ("" never), 7 ticks made with this
--   one, 8 the time of the last of them, 9... a job as in enqueue.lua, nothing for a tick that is left out
-- Returns {"ok", what enqueue.lua returns, or nothing}; {"clear"}: so is the tick made, but its family takes no job in
--   clear, so there is none; {"stale"} when another process made this tick or the definition
--   has changed; {"early"} when it is not due yet.
local schedules, ticks, runs = prefix .. 'schedules', prefix .. 'ticks', prefix .. 'schedule:runs'
local name, due = ARGV[3], tonumber(ARGV[4])
local definition = redis.call('HGET', schedules, name)
if tonumber(redis.call('ZSCORE', ticks, name) or nil) ~= due or not definition
  or redis.sha1hex(definition) ~= ARGV[5] then
  return { 'stale' }
end
if due > now then return { 'early' } end

-- First of all, and its first write is one that a full server refuses: then the tick stays due.
local added
if ARGV[9] then
  local job = { ARGV[1], ARGV[2], 'own' }
  for i = 9, #ARGV do job[#job + 1] = ARGV[i] end
  added = enqueue(job)
end
redis.call('ZREM', ticks, name)
if ARGV[6] ~= '' then redis.call('ZADD', ticks, ARGV[6], name) end
redis.call('HSET', runs, name, ARGV[7] .. ' ' .. ARGV[8])
if added and type(added[1]) == 'string' then return { 'clear' } end
return { 'ok', added and added[1] }
