-- A process begins jobs that it claimed before it had a slot for them: from now on it may be these that kill it.
-- ARGV: 3 session, then the ids
-- Returns nothing.
local held, ids, fields = held_key(ARGV[3]), { unpack(ARGV, 4) }, {}
for i, entry in ipairs(redis.call('HMGET', held, unpack(ids))) do
  -- Reaped: another process has it.
  if entry then
    fields[#fields + 1] = ids[i]
    fields[#fields + 1] = string.gsub(entry, NOT_BEGUN_ENTRY, '%1')
  end
end
if #fields > 0 then redis.call('HSET', held, unpack(fields)) end
